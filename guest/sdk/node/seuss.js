'use strict';
/**
 * Snapshots from inside a SEUSS guest.
 *
 *   const seuss = require('./seuss');
 *   seuss.beforeSnapshot(closeConnections);
 *   seuss.afterRestore((generation) => openConnections());
 *   seuss.snapshot('function', 'models-v3');       // returns here, and in every clone
 *
 * Where snapshots are taken from outside (a pod that is ready), call `seuss.refresh()` at the start of each request: it costs some microseconds, and in a new
 * clone it calls the functions of `afterRestore`, after process.env got the variables that differ (HOSTNAME and the like). `crypto` draws from the guest's generator,
 * which every clone has seeded anew; Math.random() cannot be seeded: what must differ from clone to clone is `crypto.randomBytes`'s business.
 *
 * Outside of a guest (no /dev/seuss) `available()` is false, `refresh` does nothing, and `snapshot` throws. The device's protocol is told in guest/DESIGN.md.
 */
const fs = require('fs');

const DEVICE = '/dev/seuss';
const before = [];
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

let laidDown = environment();
let known = available() ? identity() : undefined;

/** Call `hook()` before a snapshot is taken with `snapshot`; the last one registered is called first. */
function beforeSnapshot(hook) {
  before.push(hook);
}

/** Call `hook(generation)` in every clone. */
function afterRestore(hook) {
  after.push(hook);
}

/** How often the lineage of this guest has been restored: 0 before the first snapshot. */
const generation = () => identity().generation;

/** A random id that no other guest has; another one in every clone. */
const instance = () => identity().id;

/** If this has become a clone since the last call: do what a clone must do. Returns whether it has. */
function refresh() {
  if (known === undefined) return false;
  const now = identity();
  if (now.generation === known.generation && now.id === known.id) return false;
  known = now;
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
  refresh();
  return generation();
}

module.exports = { afterRestore, available, beforeSnapshot, generation, instance, refresh, snapshot };
