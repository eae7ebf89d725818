"""Runs one module of CPython's test suite and prints what came of each test case, one line a case.

    collect.py [--quiet-seconds N] MODULE      the supervisor; runs as pid 1 of a container
    collect.py --worker FD MODULE [DONE]       a run of the module, as `python3 -m test MODULE` does it

A line has three or four fields separated by tabs: "seuss-case", the result (pass, fail, skip), the case's id, and why it failed. A module
that holds no unittest cases (only doctests, or it is skipped as a whole) has one line with the id "(module)".

The worker tells the supervisor through a pipe when a case starts and how it ends. If the worker dies within a case, or tells nothing
for too long, that case has failed; the supervisor starts another worker that leaves out the cases that are done. So a crash or a
hang costs one case and not the rest of its module.
"""

import os
import resource
import select
import signal
import sys
import tempfile
import time

# A module that keeps crashing is given up.
WORKERS_MAX = 40
QUIET_SECONDS = 240


# ---- the worker

def worker(fd, module, done):
    import unittest
    from test import support
    import test.libregrtest.main
    regrtest = sys.modules["test.libregrtest.main"]
    from test.support import testresult

    os.set_inheritable(fd, False)
    pid = os.getpid()

    def tell(what, case, why=""):
        # A child of a test that runs on must not speak for its parent.
        if os.getpid() == pid:
            text = f"{what}\t{case}\t{why}".replace("\n", " ")
            os.write(fd, text.encode("utf-8", "backslashreplace")[:3000] + b"\n")

    def identity(test):
        test = getattr(test, "test_case", test)  # a subtest stands for its case
        return test.id()

    def reason(error):
        kind, value, _ = error
        return f"{kind.__name__}: {value}"[:300]

    class Recorder(testresult.RegressionTestResult):
        def startTest(self, test):
            tell("start", identity(test))
            super().startTest(test)

        def addSuccess(self, test):
            tell("pass", identity(test))
            super().addSuccess(test)

        def addExpectedFailure(self, test, error):
            tell("pass", identity(test))
            super().addExpectedFailure(test, error)

        def addUnexpectedSuccess(self, test):
            tell("fail", identity(test), "unexpected success")
            super().addUnexpectedSuccess(test)

        def addFailure(self, test, error):
            tell("fail", identity(test), reason(error))
            super().addFailure(test, error)

        def addError(self, test, error):
            tell("fail", identity(test), reason(error))
            super().addError(test, error)

        def addSkip(self, test, why):
            tell("skip", identity(test), why)
            super().addSkip(test, why)

        def addSubTest(self, test, subtest, error):
            if error is not None:
                tell("fail", identity(test), reason(error))
            super().addSubTest(test, subtest, error)

        def stopTest(self, test):
            super().stopTest(test)
            tell("stop", identity(test))

    testresult.RegressionTestResult = Recorder
    leave_out = set(done)
    plain_match = support.match_test
    support.match_test = lambda test: plain_match(test) and test.id() not in leave_out

    plain_runtest = regrtest.runtest

    def runtest(namespace, name):
        outcome = plain_runtest(namespace, name)
        word = type(outcome).__name__
        kinds = {"Passed": "pass", "EnvChanged": "pass", "Skipped": "skip", "ResourceDenied": "skip", "DidNotRun": "skip"}
        tell("module", kinds.get(word, "fail"), word)
        return outcome

    regrtest.runtest = runtest
    sys.argv = ["python3 -m test", "-u", "subprocess", module]  # regrtest reads them there
    regrtest.main()


# ---- the supervisor

class Results:
    """What is known of each case; a failure stays one whatever follows."""

    RANK = {"skip": 0, "pass": 1, "fail": 2}

    def __init__(self):
        self.cases = {}
        self.started = None
        self.module = None

    def take(self, line):
        what, case, why = (line.split("\t") + ["", ""])[:3]
        if what == "start":
            self.started = case
        elif what == "stop":
            self.started = None
        elif what == "module":
            self.module = (case, why)
        else:
            self.add(case, what, why)

    def add(self, case, result, why):
        old = self.cases.get(case)
        if old is None or self.RANK[result] > self.RANK[old[0]]:
            self.cases[case] = (result, why)

    def lines(self):
        cases = self.cases or {"(module)": self.module or ("fail", "the interpreter did not start the module")}
        for case, (result, why) in cases.items():
            yield "\t".join(["seuss-case", result, case] + ([why] if result != "pass" else []))


def run_worker(module, results, quiet_seconds):
    """One worker from start to end. Returns how it ended: "" if it ran through."""
    with tempfile.NamedTemporaryFile("w", suffix=".done") as done:
        done.write("\n".join(results.cases))
        done.flush()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(2, 1)
            os.set_inheritable(writer, True)
            arguments = [sys.executable, __file__, "--worker", str(writer), module, done.name]
            os.execv(sys.executable, arguments)
        os.close(writer)
        try:
            return watch(reader, pid, results, quiet_seconds)
        finally:
            os.close(reader)
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                pass


def watch(reader, pid, results, quiet_seconds):
    os.set_blocking(reader, False)
    text = b""
    status = None
    heard = time.monotonic()
    while True:
        select.select([reader], [], [], 0.2 if status is None else 0)
        try:
            chunk = os.read(reader, 1 << 16)
        except BlockingIOError:
            chunk = b""
        if chunk:
            heard = time.monotonic()
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                results.take(line.decode("utf-8", "replace"))
            continue
        if status is not None:
            break
        status = reap(pid)
        if status is None and time.monotonic() - heard > quiet_seconds:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"nothing heard for {quiet_seconds} s"
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "" if results.module else f"exit status {os.WEXITSTATUS(status)}"


def reap(worker_pid):
    """As pid 1: collects whoever has ended. The worker's status once it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0 if found is None else found
        if pid == 0:
            return found
        if pid == worker_pid:
            found = status


def supervise(module, quiet_seconds):
    # Some cases open files until there are no more; 1024 is what they expect of a system.
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    results = Results()
    for _ in range(WORKERS_MAX):
        known = len(results.cases)
        results.module = None
        results.started = None
        ended = run_worker(module, results, quiet_seconds)
        if not ended:
            break
        sys.stderr.write(f"collect: {module}: worker ended: {ended} (in {results.started})\n")
        if results.started:
            results.add(results.started, "fail", ended)
        elif len(results.cases) == known:
            results.module = ("fail", ended)
            break
    for line in results.lines():
        print(line)


def main(arguments):
    if arguments[0] == "--worker":
        fd, module, *done = arguments[1:]
        names = open(done[0], encoding="utf-8").read().splitlines() if done else []
        worker(int(fd), module, names)
        return
    quiet_seconds = QUIET_SECONDS
    if arguments[0] == "--quiet-seconds":
        quiet_seconds = int(arguments[1])
        arguments = arguments[2:]
    if arguments[0] == "--list":
        from test.libregrtest.runtest import findtests
        print("\n".join(sorted(findtests())))
        return
    supervise(arguments[0], quiet_seconds)


main(sys.argv[1:])
