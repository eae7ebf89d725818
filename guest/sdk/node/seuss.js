'use strict';
/**
 * Snapshots from inside a SEUSS guest.
 *
 *   const seuss = require('./seuss');
 *   seuss.beforeSnapshot(closeConnections);
 *   seuss.afterRestore((generation) => openConnections());
 *   seuss.snapshot('function', 'models-v3');       // returns here, and in every clone
 *
 * `seuss.watch()`, once, lets hooks run around snapshots that are taken from outside, too (a pod that is ready): those of `beforeSnapshot` may return promises, and the snapshot
 * waits for them, for a second at the most; those of `afterSnapshot` run in the guest that goes on. It occupies one thread of libuv's pool, and keeps the program alive.
 *
 * Where it is not used, call `seuss.refresh()` at the start of each request: it costs some microseconds, and in a new
 * clone it calls the functions of `afterRestore`, after process.env got the variables that differ (HOSTNAME and the like) and random numbers became its own.
 *
 * UUIDs, random bytes and keys need nothing of this: in every clone the library OS has OpenSSL seeded anew before the program goes on, and `crypto.randomUUID` draws in each call. What this adds is Math.random, and
 * the same with `seuss.dev/hooks: "off"`.
 *
 * OpenSSL keeps its generator in the program's memory, so that clones would draw the same numbers and make the same keys; Node.js has no function that seeds it anew.
 * `seuss.node` has: beside this file, made of seuss.c by `cc -shared -fPIC -O2 -o seuss.node seuss.c`. Math.random draws from `crypto` in a clone.
 * **Not** supported: worker threads' Math.random; clones that do not come to `refresh` have the numbers of their siblings.
 *
 * Outside of a guest (no /dev/seuss) `available()` is false, `refresh` does nothing, and `snapshot` throws. The device's protocol is told in guest/DESIGN.md.
 */
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');

const DEVICE = '/dev/seuss';
const SEEDER = path.join(__dirname, 'seuss.node');
const before = [];
const taken = [];
const after = [];

/** What execve(2) laid down, with what a restore has written over it. */
function environment() {
  const entries = new Map();
  try {
    for (const entry of fs.readFileSync('/proc/self/environ', 'utf8').split('\0')) {
      const at = entry.indexOf('=');
      if (at > 0) entries.set(entry.slice(0, at), entry.slice(at + 1));
    }
  } catch {
    // No /proc: nothing to compare.
  }
  return entries;
}

function identity() {
  const device = fs.openSync(DEVICE, 'r');
  try {
    const text = Buffer.alloc(256);
    const length = fs.readSync(device, text, 0, text.length, null);
    const [, generation, , id] = text.toString('latin1', 0, length).split(/\s+/);
    return { generation: Number(generation), id };
  } finally {
    fs.closeSync(device);
  }
}

/** Whether this is a SEUSS guest. */
const available = () => fs.existsSync(DEVICE);

if (available() && !fs.existsSync(SEEDER)) {
  throw new Error(`${SEEDER} is missing: clones would have the same random numbers (see seuss.c)`);
}
let laidDown = environment();
let known = available() ? identity() : undefined;

/** Call `hook()` before a snapshot is taken with `snapshot`, or, with `watch`, from outside; the last one registered is called first. */
function beforeSnapshot(hook) {
  before.push(hook);
}

/** Call `hook()` in the guest that goes on when a snapshot was taken, or could not be: the counterpart of `beforeSnapshot`. */
function afterSnapshot(hook) {
  taken.push(hook);
}

/** Call `hook(generation)` in every clone. */
function afterRestore(hook) {
  after.push(hook);
}

/** How often the lineage of this guest has been restored: 0 before the first snapshot. */
const generation = () => identity().generation;

/** A random id that no other guest has; another one in every clone. */
const instance = () => identity().id;

/** Let this clone have random numbers of its own. */
function seedAnew() {
  process.dlopen({ exports: {} }, SEEDER);
  // What randomUUID has in store: 128 of them (lib/internal/crypto/random.js).
  for (let count = 0; count < 128; count++) crypto.randomUUID();
  let numbers = new Uint32Array(0);
  let next = 0;
  Math.random = () => {
    if (next === numbers.length) {
      numbers = crypto.getRandomValues(new Uint32Array(128));
      next = 0;
    }
    const high = numbers[next++] >>> 5;
    const low = numbers[next++] >>> 6;
    return (high * 0x4000000 + low) / 0x20000000000000;
  };
}

/** If this has become a clone since the last call: do what a clone must do. Returns whether it has. */
function refresh() {
  if (known === undefined) return false;
  const now = identity();
  if (now.generation === known.generation && now.id === known.id) return false;
  known = now;
  seedAnew();
  const changed = environment();
  for (const [key, value] of changed) {
    if (laidDown.get(key) !== value) process.env[key] = value;
  }
  laidDown = changed;
  for (const hook of after) hook(now.generation);
  return true;
}

/**
 * Take a snapshot; returns the generation: the old one in this guest, a higher one in a clone.
 *
 * `level` is 'base', 'function' or 'argument'. Throws if there is no store (EOPNOTSUPP) or the snapshot cannot be written (EIO).
 */
function snapshot(level = 'function', key = '') {
  if (/\s/.test(key)) throw new RangeError('a key has no spaces');
  for (const hook of [...before].reverse()) hook();
  // Not 'w', which would make the file outside of a guest.
  const device = fs.openSync(DEVICE, fs.constants.O_WRONLY);
  try {
    fs.writeSync(device, `snapshot ${level} ${key}`);
  } finally {
    fs.closeSync(device);
  }
  if (!refresh()) for (const hook of taken) hook();
  return generation();
}

/** Call each hook; one that fails is told and keeps no other from being called. */
async function call(hooks) {
  for (const hook of hooks) {
    try {
      await hook();
    } catch (error) {
      console.error(error);
    }
  }
}

/** Let hooks run around snapshots that are taken from outside, and `refresh` when this has become a clone. Once is enough. */
function watch() {
  if (known === undefined) return;
  const device = fs.openSync(DEVICE, 'r+');
  fs.writeSync(device, 'hooks');
  const text = Buffer.alloc(256);
  const next = () => fs.read(device, text, 0, text.length, null, async (error, length) => {
    if (error) throw error;
    const [what, number] = text.toString('latin1', 0, length).split(/\s+/);
    if (what === 'capture') {
      await call([...before].reverse());
      fs.writeSync(device, `ready ${number}`);
    } else if (what === 'generation') {
      refresh();
    } else {
      await call(taken);
    }
    next();
  });
  next();
}

module.exports = { afterRestore, afterSnapshot, available, beforeSnapshot, generation, instance, refresh, snapshot, watch };
