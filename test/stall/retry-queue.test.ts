import { strict as assert } from 'node:assert';
import { Actions } from '../../src/stall/actions.ts';
import type { StopsOn } from '../../src/stall/endpoint-queue.ts';
import {
  connectionLost,
  handled,
  overtaken,
  RESTARTS_MAX,
  RETRY_TRANSITIONS,
  type Reply,
  type RetryActionKind,
  type RetryPhase,
  type RetryQueue,
  replied,
  retryQueue,
  type Server,
  submitted,
  unlinked,
} from '../../src/stall/retry-queue.ts';
import { PhaseRecorder } from './phases.ts';

/**
 * An event and, after the arrow, the actions that it asks for:
 * - `submit a`, `submit-guarded a` (SHORT_NOT_OK), `unlink a`: the driver
 * - `ok a`, `short a`, `error a`, `unlinked a`, `returned a`: the server's reply
 * - `overtaken`: an unlink has come before its transfer; `handled`: one handler has returned; `lost`: the connection
 */
type Line = string;

const phases = new PhaseRecorder();

class Bench {
  readonly queue: RetryQueue<string>;
  readonly #orders = new Map<string, number>();
  #submitted = 0;
  readonly #actions = new Actions<string, RetryActionKind>();

  constructor(server: Server = 'stall-protocol', stopsOn: StopsOn = 'errors') {
    const orderOf = (one: string) => this.#orders.get(one) ?? Number.NaN;
    this.queue = retryQueue<string>(stopsOn, server, orderOf);
    phases.watch(this.queue);
  }

  run(lines: readonly Line[]): void {
    for (const line of lines) {
      const [event = '', actions = ''] = line.split('->').map((part) => part.trim());
      assert.equal(this.#step(event), actions, `after "${event}" of: ${lines.join(' | ')}`);
    }
  }

  #step(event: string): string {
    const { queue } = this;
    const actions = this.#actions;
    const [name = '', subject = ''] = event.split(' ');
    if (name.startsWith('submit')) this.#orders.set(subject, this.#submitted++);
    if (name === 'submit') submitted(queue, subject, false, actions);
    else if (name === 'submit-guarded') submitted(queue, subject, true, actions);
    else if (name === 'unlink') unlinked(queue, subject, actions);
    else if (name === 'handled') handled(queue, actions);
    else if (name === 'overtaken') overtaken(queue);
    else if (name === 'lost') connectionLost(queue, actions);
    else replied(queue, subject, name as Reply, actions);
    const done: string[] = [];
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      done.push(`${kind} ${actions.subject}`);
    }
    return done.join(', ');
  }
}

function rows(make: () => Bench, table: Record<string, readonly Line[]>): void {
  for (const [name, lines] of Object.entries(table)) it(name, () => make().run(lines));
}

const SENT = ['submit a -> send a', 'submit b -> send b', 'submit c -> send c'];
const FAILED = [...SENT, 'error a -> giveBack a'];

describe('retry queue', () => {
  describe('Tests for the running phase', () => {
    rows(() => new Bench(), {
      'sends at once': [...SENT, 'ok a -> giveBack a', 'handled', 'submit d -> send d'],
      'an unlink is the server’s to answer': [
        ...SENT,
        'unlink b -> sendUnlink b',
        'unlink b',
        'ok a -> giveBack a',
        'ok b -> giveBack b',
        'handled',
        'handled',
        'submit d -> send d',
      ],
      'unlinking what it does not have does nothing': [
        'submit a -> send a',
        'ok a -> giveBack a',
        'unlink a',
      ],
    });
    rows(() => new Bench('stall-protocol', 'errors-but-short'), {
      'a short control read stops nothing': [
        'submit a -> send a',
        'submit b -> send b',
        'short a -> giveBack a',
        'submit c -> send c',
      ],
    });
    for (const server of ['stall-protocol', 'old'] as const) {
      rows(() => new Bench(server, 'nothing'), {
        [`isochronous stops for nothing (server: ${server})`]: [
          'submit-guarded a -> send a',
          'submit b -> send b',
          'error a -> giveBack a',
          'submit c -> send c',
          'unlink b -> sendUnlink b',
          'unlinked b -> giveBack b',
          'submit d -> send d',
          'returned d -> giveBack d',
        ],
      });
    }
  });

  describe('Tests for the collecting phase', () => {
    rows(() => new Bench(), {
      'retries when all are back and all handlers have returned': [
        ...FAILED,
        'returned b',
        'returned c',
        'handled -> sendClear b, send c',
        'ok b -> giveBack b',
        'submit d -> send d',
      ],
      'whichever comes last': [
        ...FAILED,
        'handled',
        'returned b',
        'returned c -> sendClear b, send c',
      ],
      'in the original order, whatever the order of returns; what is new comes last': [
        ...FAILED,
        'submit d',
        'returned c',
        'submit e',
        'returned b',
        'handled -> sendClear b, send c, send d, send e',
      ],
      'without what the driver unlinks meanwhile': [
        ...FAILED,
        'unlink c -> sendUnlink c',
        'returned b',
        'unlink b -> giveBackUnlinked b',
        'returned c -> giveBackUnlinked c',
        'submit d',
        'unlink d -> giveBackUnlinked d',
        'submit e',
        'handled',
        'handled',
        'handled',
        'handled -> sendClear e',
      ],
      'handlers of transfers that ended well count too': [
        ...SENT,
        'ok a -> giveBack a',
        'error b -> giveBack b',
        'returned c',
        'handled',
        'handled -> sendClear c',
      ],
      'begins with the unlink of one, or a return out of the blue': [
        'submit a -> send a',
        'submit b -> send b',
        'unlink a -> sendUnlink a',
        'unlinked a -> giveBack a',
        'submit c',
        'returned b',
        'handled -> sendClear b, send c',
        'returned b',
        'returned c -> sendClear b, send c',
      ],
      'a second error while it waits': [
        ...SENT,
        'returned b',
        'error a -> giveBack a',
        'error c -> giveBack c',
        'handled',
        'handled -> sendClear b',
      ],
    });
  });

  describe('Tests for the retrying phase', () => {
    rows(() => new Bench(), {
      'nothing left: the next one carries clear-stall': [
        'submit a -> send a',
        'error a -> giveBack a',
        'handled',
        'submit b -> sendClear b',
        'submit c -> send c',
      ],
      'submitted from inside the handler: when that has returned': [
        'submit a -> send a',
        'error a -> giveBack a',
        'submit b',
        'handled -> sendClear b',
      ],
    });
  });

  describe('Tests for the end (lost)', () => {
    const phases: Record<RetryPhase, readonly Line[]> = {
      running: [...SENT, 'lost -> giveBackLost a, giveBackLost b, giveBackLost c'],
      collecting: [
        ...FAILED,
        'returned c',
        'submit d',
        'unlink b -> sendUnlink b',
        'lost -> giveBackLost b, giveBackLost c, giveBackLost d',
      ],
      retrying: ['submit a -> send a', 'error a -> giveBack a', 'handled', 'lost'],
      lost: ['lost', 'lost'],
    };
    for (const [phase, lines] of Object.entries(phases)) {
      it(`while ${phase}: all is given back`, () => {
        const bench = new Bench();
        bench.run([...lines, 'submit z -> giveBackLost z', 'unlink z']);
        const { queue } = bench;
        assert.equal(queue.phase, 'lost');
        assert.equal(queue.sent.length + queue.waiting.length, 0);
        while (queue.handling > 0) bench.run(['handled']);
      });
    }
  });

  describe('Tests for old servers', () => {
    rows(() => new Bench('old'), {
      'nothing overtakes a guarded one': [
        'submit a -> send a',
        'submit-guarded b -> send b',
        'submit-guarded c',
        'submit d',
        'ok a -> giveBack a',
        'ok b -> giveBack b, send c',
        'ok c -> giveBack c, send d',
        'submit e -> send e',
      ],
      'an error: nothing new until all are back and handled': [
        'submit a -> send a',
        'submit b -> send b',
        'error a -> giveBack a',
        'submit c',
        'handled',
        'ok b -> giveBack b',
        'submit d',
        'handled -> send c, send d',
      ],
      'a short read: what waits behind it goes when it is handled': [
        'submit-guarded a -> send a',
        'submit-guarded b',
        'submit-guarded c',
        'short a -> giveBack a',
        'unlink b -> giveBackUnlinked b',
        'handled',
        'handled -> send c',
      ],
      'the unlink of one that waits does not let another overtake': [
        'submit-guarded a -> send a',
        'submit-guarded b',
        'submit c',
        'unlink b -> giveBackUnlinked b',
        'handled',
        'ok a -> giveBack a',
        'handled -> send c',
      ],
      'an unlink stops it at once': [
        'submit a -> send a',
        'submit b -> send b',
        'unlink b -> sendUnlink b',
        'submit c',
        'ok a -> giveBack a',
        'handled',
        'unlinked b -> giveBack b',
        'handled -> send c',
      ],
      'knows no returns': ['submit a -> send a', 'returned a -> giveBack a', 'handled'],
    });
  });

  describe('Tests for a server that returns what carries clear-stall', () => {
    const again = (count: number, subject: string) =>
      Array.from({ length: count }, () => `returned ${subject} -> sendClear ${subject}`);

    rows(() => new Bench(), {
      'it is retried a number of times, then it has failed': [
        'submit a -> send a',
        ...again(RESTARTS_MAX, 'a'),
        'returned a -> giveBackFailed a',
        'handled',
      ],
      'what is behind it fails with it, in order; what comes later is sent once': [
        ...['submit a -> send a', 'submit b -> send b'],
        ...Array(RESTARTS_MAX).fill(['returned a', 'returned b -> sendClear a, send b']).flat(),
        ...['submit c -> send c', 'returned a', 'returned b'],
        'returned c -> giveBackFailed a, giveBackFailed b, giveBackFailed c',
        ...['submit d', 'handled', 'handled', 'handled -> sendClear d'],
        ...['returned d -> giveBackFailed d', 'submit e', 'handled -> sendClear e'],
        'ok e -> giveBack e',
      ],
      'any other reply begins the count anew': [
        ...['submit a -> send a', ...again(RESTARTS_MAX, 'a'), 'ok a -> giveBack a', 'handled'],
        ...['submit b -> send b', ...again(RESTARTS_MAX, 'b'), 'error b -> giveBack b', 'handled'],
        ...['submit c -> sendClear c', ...again(RESTARTS_MAX - 1, 'c')],
        ...['unlink c -> sendUnlink c', 'returned c -> giveBackUnlinked c', 'handled'],
        ...[
          'submit d -> sendClear d',
          ...again(RESTARTS_MAX - 1, 'd'),
          'returned d -> giveBackFailed d',
        ],
      ],
    });
  });

  describe('Tests for an unlink that has overtaken its transfer', () => {
    rows(() => new Bench(), {
      'what is behind it waits for its handler, and for those ahead': [
        'submit a -> send a',
        'overtaken',
        'submit b',
        'handled',
        'ok a -> giveBack a',
        'handled -> sendClear b',
      ],
      'when nothing is left to retry': [
        ...FAILED.slice(0, 1),
        'error a -> giveBack a',
        'handled',
        'overtaken',
        'submit b',
        'handled -> sendClear b',
      ],
    });
    rows(() => new Bench('old'), {
      'towards an old server': ['overtaken', 'submit a', 'handled -> send a'],
    });
    rows(() => new Bench('stall-protocol', 'nothing'), {
      'of an isochronous one stops nothing': ['overtaken', 'submit a -> send a', 'handled'],
    });
  });

  it('refuses a reply for what was not sent', () => {
    assert.throws(() => new Bench().run(['ok a']), /Cannot take a transfer from its queue/);
  });

  describe('The table', () => {
    it('has the transitions that these tests have taken, and no others', () => {
      phases.assertAllTaken(RETRY_TRANSITIONS);
    });
  });
});
