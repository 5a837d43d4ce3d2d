/** Lines that peers cause are written some times, then counted: nothing is lost, and nothing grows. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  LINES_MAX,
  PEERS_COUNTED_MAX,
  PeerLines,
  WINDOW_MILLISECONDS,
} from '../../src/core/peer-log.ts';
import { SimulatedClock } from '../sim/time.ts';

class Bench {
  readonly clock = new SimulatedClock();
  readonly lines: string[] = [];
  readonly log = new PeerLines(
    {
      info: (message) => this.lines.push(`info ${message}`),
      warn: (message) => this.lines.push(`warn ${message}`),
      error: (message) => this.lines.push(`error ${message}`),
    },
    this.clock,
  );
}

const refusal = ['refused imports', '192.0.2.1'] as const;

describe('lines that peers cause', () => {
  it('a few are written as they come', () => {
    const { log, lines } = new Bench();
    log.warn('one', ...refusal);
    log.info('two', 'lists', '192.0.2.1');
    assert.deepEqual(lines, ['warn one', 'info two']);
  });

  it('7,000 of a kind are LINES_MAX lines and one that says how many more, from how many', () => {
    const { log, lines, clock } = new Bench();
    for (let n = 0; n < 7000; n++) log.warn(`no. ${n}`, refusal[0], `192.0.2.${n % 3}`);
    assert.equal(lines.length, LINES_MAX);
    clock.run();
    assert.equal(lines.length, LINES_MAX + 1);
    const more = (7000 - LINES_MAX).toLocaleString('en-US');
    assert.equal(
      lines.at(-1),
      `warn … and ${more} more refused imports from 3 addresses in the last 10 s`,
    );
  });

  it('one kind does not silence another', () => {
    const { log, lines } = new Bench();
    for (let n = 0; n < 1000; n++) log.warn('refused', ...refusal);
    log.info('attached', 'attached devices', '192.0.2.9');
    assert.equal(lines.at(-1), 'info attached');
  });

  it('are written again in the next window', () => {
    const { log, lines, clock } = new Bench();
    for (let n = 0; n < LINES_MAX + 1; n++) log.warn('refused', ...refusal);
    clock.run();
    clock.after(WINDOW_MILLISECONDS, () => {});
    clock.run();
    lines.length = 0;
    log.warn('again', ...refusal);
    assert.deepEqual(lines, ['warn again']);
  });

  it('the count of a window that is still open is written when the log ends', () => {
    const { log, lines } = new Bench();
    for (let n = 0; n < LINES_MAX + 1; n++) log.warn('refused', ...refusal);
    log.flush();
    assert.match(lines.at(-1) ?? '', /^warn … and 1 more refused imports from 1 address in/);
  });

  it('addresses beyond a number are not told apart', () => {
    const { log, lines } = new Bench();
    for (let n = 0; n < PEERS_COUNTED_MAX + LINES_MAX + 10; n++) {
      log.warn('refused', refusal[0], `${n}`);
    }
    log.flush();
    assert.match(lines.at(-1) ?? '', /from 1,000 or more addresses/);
  });

  it('always: written and counted lines are all lines, and a window writes no more than its limit', () => {
    const lines = fc.array(
      fc.record({
        kind: fc.constantFrom('a', 'b', 'c'),
        peer: fc.constantFrom('x', 'y'),
        count: fc.integer({ min: 1, max: 120 }),
        pause: fc.integer({ min: 0, max: 4 }),
      }),
      { maxLength: 60 },
    );
    fc.assert(
      fc.property(lines, (script) => {
        const bench = new Bench();
        let total = 0;
        for (const { kind, peer, count, pause } of script) {
          for (let n = 0; n < count; n++) bench.log.info(`line ${kind}`, kind, peer);
          total += count;
          bench.clock.after((pause * WINDOW_MILLISECONDS) / 3, () => {});
          bench.clock.run();
        }
        bench.log.flush();
        const written = bench.lines.filter((line) => line.startsWith('info line')).length;
        const counted = bench.lines
          .map((line) => Number(/and ([\d,]+) more/.exec(line)?.[1]?.replaceAll(',', '') ?? 0))
          .reduce((sum, one) => sum + one, 0);
        assert.equal(written + counted, total);
        const windows = Math.floor(bench.clock.now() / WINDOW_MILLISECONDS) + 1;
        assert(written <= 3 * windows * LINES_MAX, `${written} lines in ${windows} windows`);
      }),
    );
  });
});
