// What generators say that were used before the snapshot: in every pod and every clone something else. Draws once while it starts, as session stores and loggers do.
const crypto = require('crypto');
const http = require('http');

const draw = () => ({
  uuid: crypto.randomUUID(),
  web: crypto.webcrypto.randomUUID(),
  values: crypto.webcrypto.getRandomValues(new Uint32Array(2)).join(),
  bytes: crypto.randomBytes(8).toString('hex'),
  integer: crypto.randomInt(2 ** 47),
  options: String(process.env.NODE_OPTIONS),
});

draw();
http.createServer((request, response) => response.end(JSON.stringify(draw()) + '\n')).listen(8000);
