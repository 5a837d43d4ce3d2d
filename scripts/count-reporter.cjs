/**
 * Mocha's "spec" output, the seconds that each slow file took, and the counts for scripts/test.mjs in
 * the file COUNTS_FILE.
 */
const { writeFileSync } = require('node:fs');
const { relative } = require('node:path');
const { reporters } = require('mocha');

/** Files that took less are not worth a line. */
const SLOW_MILLISECONDS = 5_000;

module.exports = class CountReporter extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const files = new FileTimes(runner);
    runner.once('end', () => {
      files.print();
      const { passes, failures, pending } = this.stats;
      writeFileSync(
        process.env.COUNTS_FILE,
        JSON.stringify({ passed: passes, failed: failures, skipped: pending }),
      );
    });
  }
};

/** What a file takes with its hooks: guests boot there, and mocha tells of tests alone. */
class FileTimes {
  #milliseconds = new Map();
  #file = '';
  #since = 0;

  constructor(runner) {
    runner.on('suite', ({ file, root }) => root || file === this.#file || this.#begin(file));
    runner.once('end', () => this.#begin(''));
  }

  #begin(file) {
    const now = Date.now();
    const sofar = this.#milliseconds.get(this.#file) ?? 0;
    this.#milliseconds.set(this.#file, sofar + now - this.#since);
    this.#file = file;
    this.#since = now;
  }

  print() {
    this.#milliseconds.delete('');
    const slow = [...this.#milliseconds].filter(([, time]) => time >= SLOW_MILLISECONDS);
    for (const [file, time] of slow.toSorted(([, one], [, other]) => other - one)) {
      const seconds = Math.round(time / 1000).toString();
      console.log(`${seconds.padStart(6)} s  ${relative(process.cwd(), file)}`);
    }
  }
}
