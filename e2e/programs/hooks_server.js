// A server on port 8000 that says which of its hooks around snapshots have run.
const http = require('http');
const seuss = require('/tmp/seuss.js');

const ran = { before: 0, after: 0, restored: null };
seuss.beforeSnapshot(async () => {
  await new Promise((resolve) => setTimeout(resolve, 10));
  ran.before += 1;
});
seuss.beforeSnapshot(() => Promise.reject(new Error('a hook that fails keeps no other from running')));
seuss.afterSnapshot(() => { ran.after += 1; });
seuss.afterRestore((generation) => { ran.restored = generation; });
seuss.watch();
http.createServer((request, response) => {
  seuss.refresh();
  response.end(JSON.stringify(ran));
}).listen(8000);
