// An HTTP server on port 8000 that says who it is: what it made as it started, and what must differ from clone to clone. Under /tmp is guest/sdk/node.
const crypto = require('crypto');
const http = require('http');
const os = require('os');
const seuss = require('/tmp/seuss.js');

// Generators that were used before the snapshot, so that their state is in it.
const started = [crypto.randomBytes(8).toString('hex'), crypto.randomUUID(), Math.random()];
const restored = [];
let answered = 0;
seuss.afterRestore((generation) => restored.push(generation));

const server = http.createServer((request, response) => {
  answered += 1;
  seuss.refresh();
  crypto.randomBytes(8, (error, inAnotherThread) => {
    const pair = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const who = {
      path: request.url,
      started,
      restored,
      answered,
      generation: seuss.generation(),
      hostname: os.hostname(),
      environment: process.env.HOSTNAME,
      id: seuss.instance(),
      bytes: crypto.randomBytes(8).toString('hex'),
      async: inAnotherThread.toString('hex'),
      uuid: crypto.randomUUID(),
      web: Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(8))).toString('hex'),
      math: Math.random(),
      time: Date.now() / 1000,
      key: pair.publicKey.export({ format: 'der', type: 'spki' }).toString('hex'),
    };
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(who));
  });
});
server.listen(8000, '0.0.0.0');
