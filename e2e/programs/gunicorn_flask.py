"""Flask under gunicorn on port 8000: two forked workers with four threads each."""
import flask
import gunicorn.app.base

application = flask.Flask("hello")


@application.get("/<name>")
def hello(name):
    return f"hello from flask: /{name}\n"


class Standalone(gunicorn.app.base.BaseApplication):
    def load_config(self):
        options = {
            "bind": "0.0.0.0:8000", "workers": 2, "threads": 4, "worker_class": "gthread", "backlog": 128, "control_socket_disable": True,
            "when_ready": lambda server: print("ready", flush=True), "worker_tmp_dir": "/dev/shm", "loglevel": "warning",
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        return application


Standalone().run()
