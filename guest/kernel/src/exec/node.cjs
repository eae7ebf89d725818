'use strict';
// Loaded before a Node.js program, by the library OS (exec/node.rs): what Node.js keeps of random numbers in JavaScript would be the same in all clones of a snapshot. Its generator itself
// is OpenSSL's, which each clone seeds anew. Nothing here may fail the program, and nothing but this is changed:
// crypto.randomUUID, its twin of Web Crypto and crypto.randomInt draw for each call instead of in advance.
try {
  // Neither the program nor its children see how this got here; the library OS does the same for those that are Node.js.
  const own = '--require=/dev/seuss.cjs';
  const options = process.env.NODE_OPTIONS;
  if (options === own) delete process.env.NODE_OPTIONS;
  else if (options?.endsWith(` ${own}`)) process.env.NODE_OPTIONS = options.slice(0, -own.length - 1);
} catch {
  // An environment that cannot be changed.
}
try {
  const crypto = require('crypto');
  const { randomBytes, randomInt, randomUUID } = crypto;
  const fresh = { __proto__: null, disableEntropyCache: true };
  const replace = (object, name, value) => {
    const { writable, enumerable, configurable } = Object.getOwnPropertyDescriptor(object, name);
    Object.defineProperty(object, name, { __proto__: null, value, writable, enumerable, configurable });
  };
  // An evenly distributed number of 0 to range - 1, range below 2 ** 48.
  const draw = (range) => {
    const all = 2 ** 48;
    for (;;) {
      const number = randomBytes(6).readUIntBE(0, 6);
      if (number < all - all % range) return number % range;
    }
  };
  const functions = {
    randomUUID(options) {
      // The original one says what is wrong with options.
      if (options !== undefined) randomUUID(options);
      return randomUUID(fresh);
    },
    randomInt(min, max, callback) {
      const [low, high, done] = typeof max === 'function' || max === undefined ? [0, min, max] : [min, max, callback];
      if (done === undefined) {
        randomInt(low, high);
        return low + draw(high - low);
      }
      return typeof done !== 'function' ? randomInt(min, max, callback)
        : randomInt(low, high, (error, number) => done(error, error ? number : low + draw(high - low)));
    },
  };
  replace(crypto, 'randomUUID', functions.randomUUID);
  replace(crypto, 'randomInt', functions.randomInt);
  const web = Object.getPrototypeOf(crypto.webcrypto);
  const ofWeb = web.randomUUID;
  const methods = {
    randomUUID() {
      // The original one refuses another `this`.
      Reflect.apply(ofWeb, this, []);
      return randomUUID(fresh);
    },
  };
  replace(web, 'randomUUID', methods.randomUUID);
  require('module').syncBuiltinESMExports();
} catch {
  // A Node.js without OpenSSL, or one whose functions cannot be replaced.
}
