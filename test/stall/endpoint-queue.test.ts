import { strict as assert } from 'node:assert';
import { Actions } from '../../src/stall/actions.ts';
import {
  type ActionKind,
  cleared,
  closed,
  completed,
  type EndpointQueue,
  elapsed,
  endpointQueue,
  fenceOpened,
  needsTime,
  type Outcome,
  overtaken,
  type StopsOn,
  submitted,
  TRANSITIONS,
  unlinked,
} from '../../src/stall/endpoint-queue.ts';
import { type Evidence, EXACT_RECOVERY, type Recovery } from '../../src/stall/fence.ts';
import { PhaseRecorder } from './phases.ts';

const TIMED: Recovery = {
  kind: 'hold',
  settleMilliseconds: 5,
  holdMilliseconds: 1000,
  arrivalMilliseconds: 50,
  graceMilliseconds: 10,
  steadyTransfers: 2,
};
const AT_ONCE: Recovery = { ...TIMED, settleMilliseconds: 0 };
const RETURN: Recovery = { kind: 'return' };

/**
 * An event and, after the arrow, the actions that it asks for:
 * - `submit a`, `submit-clear a`, `submit-before a`, `submit-after a` (the evidence), `unlink a`
 * - `ok a`, `short a`, `error a`, `unlinked a`, `partial a`: how the device ends it
 * - `overtaken`: an unlink whose URB will not come
 * - `cleared`, `fence`, `closed`, `wait 50`
 */
type Line = string;

interface Setup {
  readonly recovery?: Recovery;
  readonly stopsOn?: StopsOn;
  readonly flightMax?: number;
  /** Names of transfers behind which nothing may be in flight. */
  readonly blocking?: string;
}

const phases = new PhaseRecorder();

class Bench {
  readonly queue: EndpointQueue<string>;
  now = 100;
  readonly #orders = new Map<string, number>();
  #submitted = 0;
  readonly #actions = new Actions<string, ActionKind>();

  constructor(setup: Setup = {}) {
    const { recovery = AT_ONCE, stopsOn = 'errors', flightMax = 1, blocking = '' } = setup;
    const blocks = (one: string) => blocking.includes(one);
    const orderOf = (one: string) => this.#orders.get(one) ?? Number.NaN;
    this.queue = endpointQueue<string>(flightMax, stopsOn, recovery, orderOf, blocks);
    phases.watch(this.queue);
  }

  run(lines: readonly Line[]): void {
    for (const line of lines) {
      const [event = '', actions = ''] = line.split('->').map((part) => part.trim());
      assert.equal(this.#step(event), actions, `after "${event}" of: ${lines.join(' | ')}`);
    }
  }

  #step(event: string): string {
    const { queue, now } = this;
    const actions = this.#actions;
    const [name = '', subject = ''] = event.split(' ');
    const evidence: Record<string, Evidence> = {
      'submit-before': 'sent-before-report',
      'submit-after': 'sent-after-report',
    };
    if (name.startsWith('submit')) {
      this.#orders.set(subject, this.#submitted++);
      submitted(queue, subject, name === 'submit-clear', evidence[name] ?? 'unknown', now, actions);
    } else if (name === 'unlink') unlinked(queue, subject, now, actions);
    else if (name === 'overtaken') overtaken(queue, now, actions);
    else if (name === 'cleared') cleared(queue, now, actions);
    else if (name === 'fence') fenceOpened(queue, now, actions);
    else if (name === 'closed') closed(queue, actions);
    else if (name === 'wait') this.#wait(Number(subject));
    else completed(queue, subject, name as Outcome, now, actions);
    const done: string[] = [];
    for (let kind = actions.next(); kind !== undefined; kind = actions.next()) {
      done.push(`${kind} ${actions.subject}`);
    }
    return done.join(', ');
  }

  #wait(milliseconds: number): void {
    const end = this.now + milliseconds;
    while (this.queue.fence.deadline <= end) {
      this.now = this.queue.fence.deadline;
      elapsed(this.queue, this.now, this.#actions);
    }
    this.now = end;
    elapsed(this.queue, this.now, this.#actions); // it may be called at any moment
  }
}

function rows(setup: Setup, table: Record<string, readonly Line[]>): void {
  for (const [name, lines] of Object.entries(table)) {
    it(name, () => new Bench(setup).run(lines));
  }
}

const QUEUED = ['submit a -> start a', 'submit b', 'submit c'];
const FLIGHT = ['submit a -> start a', 'submit b -> start b', 'submit c -> start c'];
const HELD = [...QUEUED, 'error a -> giveBack a'];

describe('endpoint queue', () => {
  describe('Tests for the running phase', () => {
    rows(
      {},
      {
        'one at a time, in order': [
          ...QUEUED,
          'ok a -> giveBack a, start b',
          'ok b -> giveBack b, start c',
          'ok c -> giveBack c',
          'submit d -> start d',
        ],
        'unlinking what it does not have does nothing': [
          'submit a -> start a',
          'ok a -> giveBack a',
          'unlink a',
        ],
      },
    );
    rows(
      { flightMax: 2 },
      {
        'as many as the device takes': [
          'submit a -> start a',
          'submit b -> start b',
          'submit c',
          'ok a -> giveBack a, start c',
          'ok c -> giveBack c',
        ],
      },
    );

    it('reads no clock', () => {
      const bench = new Bench();
      assert.equal(needsTime(bench.queue), false);
      bench.run([...QUEUED, 'ok a -> giveBack a, start b']);
      assert.equal(needsTime(bench.queue), false);
      bench.run(['unlink c -> giveBackUnlinked c']);
      assert.equal(needsTime(bench.queue), true);
    });
  });

  describe('Tests for barriers', () => {
    rows(
      {},
      {
        'what is ahead goes on, what is behind waits': [
          ...QUEUED,
          'submit d',
          'unlink c -> giveBackUnlinked c',
          'ok a -> giveBack a, start b',
          'ok b -> giveBack b',
          'wait 999',
          'wait 1 -> start d',
        ],
        'the fence takes them away': [
          ...QUEUED,
          'unlink b -> giveBackUnlinked b',
          'fence',
          'ok a -> giveBack a, start c',
        ],
        'cleared shortens them': [
          ...QUEUED,
          'unlink b -> giveBackUnlinked b',
          'cleared',
          'ok a -> giveBack a',
          'wait 50 -> start c',
        ],
        'time passes them unnoticed': [
          ...QUEUED,
          'unlink b -> giveBackUnlinked b',
          'wait 1000',
          'ok a -> giveBack a, start c',
        ],
        'the later of two counts': [
          ...QUEUED,
          'submit d',
          'unlink b -> giveBackUnlinked b',
          'wait 600',
          'unlink c -> giveBackUnlinked c',
          'ok a -> giveBack a',
          'wait 999',
          'wait 1 -> start d',
        ],
        'one between two makes them one': [
          ...QUEUED,
          'submit d',
          'submit e',
          'unlink b -> giveBackUnlinked b',
          'unlink d -> giveBackUnlinked d',
          'unlink c -> giveBackUnlinked c',
          'fence',
          'ok a -> giveBack a, start e',
        ],
        'an error takes them up': [
          ...QUEUED,
          'unlink b -> giveBackUnlinked b',
          'error a -> giveBack a',
          'wait 999',
          'wait 1 -> start c',
        ],
        'one that nothing waits behind holds no single arrival for long': [
          'submit a -> start a',
          'submit b',
          'unlink b -> giveBackUnlinked b',
          'ok a -> giveBack a',
          'submit c',
          'wait 50 -> start c',
        ],
      },
    );

    it('do not pile up behind a transfer that takes for ever', () => {
      const bench = new Bench();
      bench.run(['submit a -> start a']);
      for (let n = 0; n < 1000; n++) bench.run(['submit b', 'unlink b -> giveBackUnlinked b']);
      assert.equal(bench.queue.waiting.length, 1);
      bench.run(['submit b', 'submit c']);
      for (let n = 0; n < 1000; n++) {
        bench.run([
          'submit d',
          'unlink b -> giveBackUnlinked b',
          'unlink d -> giveBackUnlinked d',
          'submit b',
          'unlink c -> giveBackUnlinked c',
          'submit c',
        ]);
      }
      assert(bench.queue.waiting.length < 6);
      assert.equal(bench.queue.barriers, bench.queue.waiting.length - 2);
    });
  });

  describe('Tests for the stopping phase', () => {
    rows(
      { flightMax: 3 },
      {
        'what is behind the error comes back and waits in its old order': [
          'submit a -> start a',
          'submit b -> start b',
          'submit c -> start c',
          'submit d',
          'error a -> cancel c, cancel b',
          'unlinked b',
          'unlinked c -> giveBack a',
          'fence -> start b, start c, start d',
        ],
        'the other way round too': [
          'submit a -> start a',
          'submit b -> start b',
          'submit c -> start c',
          'error a -> cancel c, cancel b',
          'submit d',
          'unlinked c',
          'unlinked b -> giveBack a',
          'fence -> start b, start c, start d',
        ],
        'one that the device had finished is reported as it is, and never starts again': [
          'submit a -> start a',
          'submit b -> start b',
          'error a -> cancel b',
          'ok b -> giveBack a, giveBack b',
          'fence',
        ],
        'one cancelled by the queue, then by the client': [
          'submit a -> start a',
          'submit b -> start b',
          'submit c -> start c',
          'error a -> cancel c, cancel b',
          'unlink b',
          'unlinked c',
          'unlink c -> giveBackUnlinked c',
          'unlinked b -> giveBack a, giveBack b',
          'fence',
        ],
        'unlink of the first at the device cancels all, and the others start again': [
          'submit a -> start a',
          'submit b -> start b',
          'unlink a -> cancel b, cancel a',
          'unlinked b',
          'unlinked a -> giveBack a',
          'fence -> start b',
        ],
      },
    );
    rows(
      {},
      {
        'an unlink that comes too late: reported as it ended, and held all the same': [
          ...QUEUED,
          'unlink a -> cancel a',
          'ok a -> giveBack a',
          'wait 999',
          'wait 1 -> start b',
        ],
      },
    );

    it('unlinking twice is remembered once', () => {
      for (const stopsOn of ['errors', 'nothing'] as const) {
        const bench = new Bench({ stopsOn });
        bench.run(['submit a -> start a', 'unlink a -> cancel a', 'unlink a', 'unlink a']);
        assert.deepEqual(bench.queue.asked, ['a']);
        bench.run(['unlinked a -> giveBack a']);
        assert.deepEqual(bench.queue.asked, []);
      }
    });
  });

  describe('Tests for a flight of several that is cut', () => {
    rows(
      { flightMax: 3 },
      {
        'what is ahead of the unlinked goes on, what is behind waits for the fence': [
          ...FLIGHT,
          'submit d',
          'unlink b -> cancel c, cancel b',
          'unlinked c',
          'unlinked b -> giveBack b',
          'ok a -> giveBack a',
          'fence -> start c, start d',
        ],
        'what is ahead may take for ever': [
          ...FLIGHT,
          'unlink c -> cancel c',
          'unlinked c -> giveBack c',
          'submit d',
          'wait 5000',
          'ok a -> giveBack a',
          'submit e',
          'ok b -> giveBack b, start d, start e',
        ],
        'time opens it': [
          ...FLIGHT,
          'unlink b -> cancel c, cancel b',
          'unlinked c',
          'unlinked b -> giveBack b',
          'ok a -> giveBack a',
          'wait 999',
          'wait 1 -> start c',
        ],
        'nothing starts while it is cut': [
          ...FLIGHT,
          'unlink b -> cancel c, cancel b',
          'ok a -> giveBack a',
          'submit d',
          'fence',
          'unlinked c',
          'unlinked b -> giveBack b',
          'fence -> start c, start d',
        ],
        'cut again, further ahead': [
          ...FLIGHT,
          'unlink c -> cancel c',
          'unlink b -> cancel b',
          'unlinked c',
          'unlinked b -> giveBack c, giveBack b',
          'ok a -> giveBack a',
        ],
        'then the first is unlinked': [
          ...FLIGHT,
          'unlink c -> cancel c',
          'unlink a -> cancel b, cancel a',
          'unlinked c',
          'unlinked b',
          'unlinked a -> giveBack c, giveBack a',
          'fence -> start b',
        ],
        'one ahead fails meanwhile': [
          ...FLIGHT,
          'submit d',
          'unlink b -> cancel c, cancel b',
          'error a',
          'unlinked b',
          'unlinked c -> giveBack a, giveBack b',
          'fence -> start c, start d',
        ],
        'one of those that were cut fails by itself': [
          ...FLIGHT,
          'unlink b -> cancel c, cancel b',
          'unlinked c',
          'error b -> cancel a',
          'unlinked a -> giveBack b',
          'fence -> start a, start c',
        ],
        'all have ended before': [
          ...FLIGHT,
          'unlink b -> cancel c, cancel b',
          'ok a -> giveBack a',
          'ok b',
          'ok c -> giveBack b, giveBack c',
          'submit d',
          'fence -> start d',
        ],
        'one that has come back is unlinked too': [
          ...FLIGHT,
          'unlink b -> cancel c, cancel b',
          'unlinked c',
          'unlink c -> giveBackUnlinked c',
          'unlinked b -> giveBack b',
        ],
      },
    );
    rows(
      { flightMax: 3, recovery: RETURN },
      {
        'a client that speaks the protocol gets the rest returned': [
          ...FLIGHT,
          'unlink b -> cancel c, cancel b',
          'unlinked c',
          'unlinked b -> giveBack b, giveBackReturned c',
          'submit d -> giveBackReturned d',
          'ok a -> giveBack a',
          'submit-clear c -> start c',
        ],
      },
    );

    it('reads the clock', () => {
      const bench = new Bench({ flightMax: 2 });
      bench.run(['submit a -> start a', 'submit b -> start b', 'unlink b -> cancel b']);
      assert.equal(needsTime(bench.queue), true);
    });
  });

  describe('Tests for transfers that must not be overtaken in flight', () => {
    rows(
      { flightMax: 3, blocking: 'xyz' },
      {
        'one may be behind others, none behind it': [
          'submit a -> start a',
          'submit x -> start x',
          'submit b',
          'submit c',
          'ok a -> giveBack a',
          'ok x -> giveBack x, start b, start c',
        ],
        'one after the other': [
          'submit x -> start x',
          'submit y',
          'submit z',
          'ok x -> giveBack x, start y',
          'short y -> giveBack y',
          'fence -> start z',
        ],
        'after the fence too': [
          'submit a -> start a',
          'submit b -> start b',
          'submit x -> start x',
          'submit c',
          'error a -> cancel x, cancel b',
          'unlinked x',
          'unlinked b -> giveBack a',
          'fence -> start b, start x',
          'ok b -> giveBack b',
          'ok x -> giveBack x, start c',
        ],
      },
    );
  });

  describe('Tests for the settling phase', () => {
    rows(
      { recovery: TIMED },
      {
        'an error is reported when nothing has arrived for a while': [
          'submit a -> start a',
          'error a',
          'wait 4',
          'submit b',
          'wait 4',
          'wait 1 -> giveBack a',
          'wait 999',
          'wait 1 -> start b',
        ],
        'arrivals put it off eight times at most': [
          'submit a -> start a',
          'error a',
          ...Array.from({ length: 10 }, (_, n) => [`submit b${n}`, 'wait 3.9']).flat(),
          'submit c',
          'wait 1 -> giveBack a',
        ],
        'unlink of the failed one: it comes back as it failed, in time': [
          ...QUEUED,
          'error a',
          'unlink a',
          'wait 5 -> giveBack a',
          'wait 1000 -> start b',
        ],
        'unlink of others: at once; the hold begins with the report': [
          ...QUEUED,
          'error a',
          'unlink b -> giveBackUnlinked b',
          'wait 5 -> giveBack a',
          'wait 999',
          'wait 1 -> start c',
        ],
        'the fence does not open for what was not reported': [
          ...QUEUED,
          'error a',
          'fence',
          'cleared',
          'wait 5 -> giveBack a',
          'fence -> start b',
        ],
        'an unlink is reported at once': [
          ...QUEUED,
          'unlink a -> cancel a',
          'unlinked a -> giveBack a',
        ],
      },
    );
  });

  describe('Tests for the holding phase', () => {
    describe('what holds an endpoint lets it go', () => {
      rows(
        {},
        {
          'unlink of all': [
            ...HELD,
            'unlink c -> giveBackUnlinked c',
            'unlink b -> giveBackUnlinked b',
            'submit d -> start d',
          ],
          time: [...HELD, 'wait 999', 'wait 1 -> start b', 'ok b -> giveBack b, start c'],
          'time, begun anew by each unlink': [
            ...HELD,
            'wait 900',
            'unlink b -> giveBackUnlinked b',
            'wait 999',
            'wait 1 -> start c',
          ],
          'time, for a first arrival': [
            'submit a -> start a',
            'error a -> giveBack a',
            'wait 10',
            'submit b',
            'wait 49',
            'wait 1 -> start b',
          ],
          'time, with nothing to hold': [
            'submit a -> start a',
            'error a -> giveBack a',
            'wait 1000',
            'submit b -> start b',
          ],
          'clear-halt, a new setting, a reset (cleared)': [
            ...HELD,
            'cleared',
            'wait 50 -> start b',
          ],
          'cleared, with nothing held': [
            'submit a -> start a',
            'error a -> giveBack a',
            'cleared',
            'submit b -> start b',
          ],
          'the fence': [...HELD, 'fence -> start b'],
          'disconnect or removal: all unlinked, then closed': [
            ...HELD,
            'unlink c -> giveBackUnlinked c',
            'unlink b -> giveBackUnlinked b',
            'closed',
          ],
        },
      );
    });

    describe('arrivals after the report', () => {
      rows(
        {},
        {
          'sent before it: held like the others': [
            ...HELD,
            'submit-before d',
            'unlink c -> giveBackUnlinked c',
            'unlink b -> giveBackUnlinked b',
            'wait 999',
            'wait 1 -> start d',
          ],
          'perhaps sent in answer: held a little when the others are unlinked': [
            ...HELD,
            'submit d',
            'unlink c -> giveBackUnlinked c',
            'unlink b -> giveBackUnlinked b',
            'wait 49',
            'wait 1 -> start d',
          ],
          'sent in answer: the same, for its unlink may be under way (vhci sends those later)': [
            ...HELD,
            'submit-after d',
            'unlink c -> giveBackUnlinked c',
            'unlink b -> giveBackUnlinked b',
            'unlink d -> giveBackUnlinked d',
            'submit e -> start e',
          ],
          'the unlink of one keeps what is behind it for a little': [
            ...HELD,
            'submit d',
            'submit e',
            'wait 990',
            'unlink d -> giveBackUnlinked d',
            'wait 49',
            'wait 1 -> start b',
          ],
          'sent before the report, with nothing held: long': [
            'submit a -> start a',
            'error a -> giveBack a',
            'submit-before b',
            'wait 999',
            'wait 1 -> start b',
          ],
          'several, whenever sent: a queue that was under way, held long and as one': [
            'submit a -> start a',
            'error a -> giveBack a',
            'submit b',
            'wait 30',
            'submit c',
            'wait 999',
            'unlink c -> giveBackUnlinked c',
            'wait 999',
            'unlink b -> giveBackUnlinked b',
            'submit d -> start d',
          ],
          'several that nobody unlinks: until the long hold runs out': [
            'submit a -> start a',
            'error a -> giveBack a',
            'submit b',
            'submit c',
            'wait 999',
            'wait 1 -> start b',
          ],
          'sent in answer by a client that has shown that it has one at a time: starts at once': [
            'submit y -> start y',
            'ok y -> giveBack y',
            'submit a -> start a',
            'error a -> giveBack a',
            'submit-after b -> start b',
          ],
          'sent, it seems, in answer, by a client of which that is not known: held a little': [
            'submit a -> start a',
            'error a -> giveBack a',
            'submit-after b',
            'wait 50 -> start b',
          ],
          'sent in answer by a client that has had two: held a little': [
            'submit a -> start a',
            'submit b',
            'ok a -> giveBack a, start b',
            'error b -> giveBack b',
            'submit-after c',
            'wait 50 -> start c',
          ],
        },
      );
      rows(
        { flightMax: 2 },
        {
          'two that the device had at a time make a client that has had two': [
            'submit y -> start y',
            'submit z -> start z',
            'ok y -> giveBack y',
            'ok z -> giveBack z',
            'submit a -> start a',
            'error a -> giveBack a',
            'submit-after b',
            'wait 50 -> start b',
          ],
        },
      );
      rows(
        { recovery: TIMED },
        {
          'one that arrives while an error settles makes a client that has had two': [
            'submit a -> start a',
            'error a',
            'submit b',
            'wait 5 -> giveBack a',
            'unlink b -> giveBackUnlinked b',
            'submit c -> start c',
            'error c',
            'wait 5 -> giveBack c',
            'submit-after d',
            'wait 50 -> start d',
          ],
        },
      );
    });

    describe('reports of the client\u2019s own unlinks alone', () => {
      const KILLED = ['submit a -> start a', 'unlink a -> cancel a', 'unlinked a -> giveBack a'];
      rows(
        {},
        {
          'hold a start anew for a moment, however many come': [
            ...KILLED,
            'submit-after b',
            'submit-after c',
            'submit-after d',
            'wait 9',
            'wait 1 -> start b',
          ],
          'hold nothing once that moment is over': [
            ...KILLED,
            'wait 10',
            'submit-after b -> start b',
          ],
          'an unlink that came too late counts the same': [
            'submit a -> start a',
            'unlink a -> cancel a',
            'ok a -> giveBack a',
            'submit-after b',
            'wait 10 -> start b',
          ],
          'hold what the client sent before it had the report like a queue': [
            ...KILLED,
            'submit-before b',
            'wait 999',
            'wait 1 -> start b',
          ],
          'hold it until it is unlinked too': [
            ...KILLED,
            'submit-before b',
            'submit-before c',
            'wait 500',
            'unlink b -> giveBackUnlinked b',
            'wait 500',
            'unlink c -> giveBackUnlinked c',
            'submit-after d -> start d',
          ],
          'a serial port closed and opened again: the two reads change places': [
            'submit a -> start a',
            'submit b',
            'ok a -> giveBack a, start b',
            'submit a2',
            'unlink a2 -> giveBackUnlinked a2',
            'unlink b -> cancel b',
            'unlinked b -> giveBack b',
            'submit-after c',
            'submit-after d',
            'wait 10 -> start c',
          ],
          'a barrier that nothing stands behind holds a start anew for a moment': [
            'submit a -> start a',
            'submit b',
            'unlink b -> giveBackUnlinked b',
            'submit-after c',
            'submit-after d',
            'wait 9',
            'ok a -> giveBack a',
            'wait 1 -> start c',
          ],
          'but what was sent before the report like a queue': [
            'submit a -> start a',
            'submit b',
            'unlink b -> giveBackUnlinked b',
            'submit-before c',
            'ok a -> giveBack a',
            'wait 999',
            'wait 1 -> start c',
          ],
          'one of several that is unlinked again and again: the others wait less each time': [
            ...QUEUED,
            'unlink b -> giveBackUnlinked b',
            'ok a -> giveBack a',
            'wait 1000 -> start c',
            'submit d',
            'submit e',
            'unlink d -> giveBackUnlinked d',
            'ok c -> giveBack c',
            'wait 499',
            'wait 1 -> start e',
          ],
        },
      );
      it('a client that has one at a time begins anew at once', () => {
        const bench = new Bench();
        for (let n = 0; n < 3; n++) {
          bench.run(['submit a -> start a', 'ok a -> giveBack a']);
        }
        bench.run([...KILLED, 'submit-after b -> start b']);
      });
    });

    describe('an unlink that overtakes its URB', () => {
      rows(
        {},
        {
          'with nothing queued: a start anew is held for a moment': [
            'overtaken',
            'submit-after a',
            'submit-after b',
            'wait 10 -> start a',
          ],
          'with nothing queued: what is older than the unlink is held like a queue': [
            'overtaken',
            'submit-before a',
            'submit-before b',
            'wait 999',
            'wait 1 -> start a',
          ],
          'what is ahead of it goes on, what is older is held like a queue': [
            'submit a -> start a',
            'submit b',
            'overtaken',
            'submit-before c',
            'ok a -> giveBack a, start b',
            'ok b -> giveBack b',
            'wait 999',
            'wait 1 -> start c',
          ],
          'what is ahead of it goes on, a start anew is held for a moment': [
            'submit a -> start a',
            'submit b',
            'overtaken',
            'submit-after c',
            'submit-after d',
            'ok a -> giveBack a, start b',
            'wait 9',
            'ok b -> giveBack b',
            'wait 1 -> start c',
          ],
          'while holding: what is held waits at least a little': [
            ...HELD,
            'wait 990',
            'overtaken',
            'wait 49',
            'wait 1 -> start b',
          ],
        },
      );
      rows(
        { recovery: RETURN },
        {
          'by a client that speaks the stall protocol: what comes behind it is returned': [
            'submit a -> start a',
            'overtaken',
            'submit b -> giveBackReturned b',
            'ok a -> giveBack a',
            'submit-clear c -> start c',
          ],
        },
      );
      rows(
        { stopsOn: 'nothing' },
        { 'isochronous: nothing waits': ['overtaken', 'submit a -> start a'] },
      );
    });

    describe('answers of a driver that keeps a number of transfers here', () => {
      // As usb-serial and btusb keep two: what comes back well is submitted again by its handler.
      const STEADY = [
        'submit a -> start a',
        'submit b',
        'ok a -> giveBack a, start b',
        'submit a2',
        'ok b -> giveBack b, start a2',
        'submit b2',
      ];
      rows(
        {},
        {
          'an error is answered: the other waits a moment more': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'wait 3',
            'submit-after a3',
            'wait 9',
            'wait 1 -> start b2',
            'ok b2 -> giveBack b2, start a3',
          ],
          'each time': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'submit-after a3',
            'wait 10 -> start b2',
            'error b2 -> giveBack b2',
            'submit-after b3',
            'wait 10 -> start a3',
          ],
          'unlinks that the handler asked for before follow in that time': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'submit-after a3',
            'wait 9',
            'unlink b2 -> giveBackUnlinked b2',
            'wait 49',
            'wait 1 -> start a3',
          ],
          'no answer: the long hold': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'wait 999',
            'wait 1 -> start b2',
          ],
          'sent before the client had the report: no answer': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'submit-before a3',
            'wait 999',
            'wait 1 -> start b2',
          ],
          'of which nothing is known: no answer': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'submit a3',
            'wait 999',
            'wait 1 -> start b2',
          ],
          'the answer to an earlier one, while that of the error is missing: no answer': [
            ...STEADY,
            'ok a2 -> giveBack a2, start b2',
            'submit a3',
            'submit c3',
            'ok b2 -> giveBack b2, start a3',
            'submit b3',
            'ok a3 -> giveBack a3, start c3',
            'submit a4',
            'ok c3 -> giveBack c3, start b3',
            'error b3 -> giveBack b3',
            'submit-after c4',
            'wait 999',
            'wait 1 -> start a4',
          ],
          'a batch: no answer': [
            'submit a -> start a',
            'submit b',
            'submit c',
            'ok a -> giveBack a, start b',
            'ok b -> giveBack b, start c',
            'ok c -> giveBack c',
            'submit d -> start d',
            'submit e',
            'error d -> giveBack d',
            'submit-after f',
            'wait 999',
            'wait 1 -> start e',
          ],
          'one more than ever: no answer': [
            ...STEADY,
            'submit c',
            'error a2 -> giveBack a2',
            'submit-after a3',
            'wait 999',
            'wait 1 -> start b2',
          ],
          'one of them was unlinked, which is answered too': [
            ...STEADY,
            'unlink a2 -> cancel a2',
            'unlinked a2 -> giveBack a2',
            'submit-after a3',
            'wait 10 -> start b2',
          ],
          'one was unlinked before its turn, which is answered too': [
            ...STEADY,
            'submit c2',
            'ok a2 -> giveBack a2, start b2',
            'submit a3',
            'ok b2 -> giveBack b2, start c2',
            'submit b3',
            'unlink a3 -> giveBackUnlinked a3',
            'submit-after a4',
            'wait 9',
            'ok c2 -> giveBack c2',
            'wait 1 -> start b3',
          ],
          'patience is not spent on those': [
            ...STEADY,
            'error a2 -> giveBack a2',
            'submit-after a3',
            'wait 10 -> start b2',
            'error b2 -> giveBack b2',
            'wait 999',
            'wait 1 -> start a3',
          ],
        },
      );
      rows(
        { flightMax: 2 },
        {
          'two have failed at a time: the first to arrive makes the number smaller, no answer': [
            'submit a -> start a',
            'submit b -> start b',
            'ok a -> giveBack a',
            'submit a2 -> start a2',
            'ok b -> giveBack b',
            'submit b2 -> start b2',
            'error a2 -> cancel b2',
            'error b2 -> giveBack a2, giveBack b2',
            'submit-after a3',
            'submit-after b3',
            'wait 999',
            'wait 1 -> start a3, start b3',
          ],
        },
      );
    });

    describe('transfers that had moved data when they were unlinked', () => {
      const KILLED = ['submit a -> start a', 'unlink a -> cancel a', 'partial a -> giveBack a'];
      rows(
        { recovery: TIMED },
        {
          'are reported at once, and hold a start anew for a moment': [
            ...KILLED,
            'submit-after b',
            'submit-after c',
            'wait 9',
            'wait 1 -> start b',
          ],
          'hold what is behind them': [
            'submit a -> start a',
            'submit b',
            'unlink a -> cancel a',
            'partial a -> giveBack a',
            'wait 999',
            'wait 1 -> start b',
          ],
        },
      );
      rows(
        { recovery: TIMED, flightMax: 3 },
        {
          'in a flight: what is ahead goes on': [
            ...FLIGHT,
            'unlink b -> cancel c, cancel b',
            'unlinked c',
            'partial b -> giveBack b',
            'ok a -> giveBack a',
            'unlink c -> giveBackUnlinked c',
            'submit-after d -> start d',
          ],
          'if the client has not unlinked them, they have failed': [
            ...FLIGHT,
            'unlink b -> cancel c, cancel b',
            'partial c -> cancel a',
            'unlinked b',
            'unlinked a',
            'wait 5 -> giveBack c, giveBack b',
            'wait 1000 -> start a',
          ],
        },
      );
    });

    describe('patience', () => {
      it('is halved by each hold that runs out without an unlink, down to the arrival time', () => {
        const bench = new Bench();
        bench.run(['submit 0 -> start 0']);
        for (const [n, hold] of [1000, 500, 250, 125, 62.5, 50, 50].entries()) {
          bench.run([`submit ${n + 1}`, `error ${n} -> giveBack ${n}`]);
          assert.equal(bench.queue.fence.deadline - bench.now, hold);
          bench.run([`wait ${hold} -> start ${n + 1}`]);
        }
      });

      it('is restored by an unlink', () => {
        const bench = new Bench();
        bench.run([...HELD, 'wait 1000 -> start b', 'submit d', 'error b -> giveBack b']);
        assert.equal(bench.queue.fence.patience, 500);
        bench.run(['unlink d -> giveBackUnlinked d']);
        assert.equal(bench.queue.fence.deadline - bench.now, 1000);
        bench.run(['wait 1000 -> start c']);
        assert.equal(bench.queue.fence.patience, 1000, 'a hold with an unlink says nothing');
      });

      it('is not lost by first arrivals, or by a hold that was cut short', () => {
        const bench = new Bench();
        bench.run(['submit 0 -> start 0']);
        for (let n = 0; n < 8; n++) {
          bench.run([
            `error ${n} -> giveBack ${n}`,
            `submit ${n + 1}`,
            `wait 50 -> start ${n + 1}`,
          ]);
        }
        bench.run(['submit 9', 'error 8 -> giveBack 8', 'cleared', 'wait 50 -> start 9']);
        assert.equal(bench.queue.fence.patience, 1000);
      });
    });
  });

  describe('Tests for exact fences', () => {
    rows(
      { recovery: EXACT_RECOVERY },
      {
        'nothing but the fence opens them': [
          ...HELD,
          'submit-after d',
          'unlink b -> giveBackUnlinked b',
          'unlink c -> giveBackUnlinked c',
          'cleared',
          'wait 1000000',
          'fence -> start d',
        ],
        'not even when nothing is left to hold': [
          'submit a -> start a',
          'error a -> giveBack a',
          'cleared',
          'submit-after b',
          'wait 1000000',
          'fence -> start b',
        ],
        'barriers wait for it too': [
          ...QUEUED,
          'unlink b -> giveBackUnlinked b',
          'cleared',
          'ok a -> giveBack a',
          'wait 1000000',
          'fence -> start c',
        ],
      },
    );
  });

  describe('Tests for clients that speak the stall protocol', () => {
    rows(
      { recovery: RETURN },
      {
        'all that is queued or arrives is returned, until clear-stall': [
          ...QUEUED,
          'error a -> giveBack a, giveBackReturned b, giveBackReturned c',
          'submit d -> giveBackReturned d',
          'cleared',
          'submit e -> giveBackReturned e',
          'submit-clear b -> start b',
          'submit c',
          'ok b -> giveBack b, start c',
        ],
        'unlink of one that waits returns what is behind it': [
          ...QUEUED,
          'submit d',
          'unlink c -> giveBackUnlinked c, giveBackReturned d',
          'ok a -> giveBack a, start b',
          'submit e -> giveBackReturned e',
          'ok b -> giveBack b',
          'submit-clear e -> start e',
        ],
        'unlink of the one at the device': [
          ...QUEUED,
          'unlink a -> cancel a',
          'submit d',
          'unlinked a -> giveBack a, giveBackReturned b, giveBackReturned c, giveBackReturned d',
        ],
        'an unlink too late stops it too': [
          'submit a -> start a',
          'unlink a -> cancel a',
          'ok a -> giveBack a',
          'submit b -> giveBackReturned b',
          'submit-clear b -> start b',
        ],
      },
    );
    rows(
      { recovery: RETURN, flightMax: 2 },
      {
        'the untouched one behind the error is returned': [
          'submit a -> start a',
          'submit b -> start b',
          'error a -> cancel b',
          'unlinked b -> giveBack a, giveBackReturned b',
        ],
      },
    );
  });

  describe('Tests for what stops a queue', () => {
    const starts = (outcome: Outcome, setup: Setup): boolean => {
      const bench = new Bench(setup);
      bench.run(QUEUED);
      completed(bench.queue, 'a', outcome, bench.now, new Actions());
      return bench.queue.phase === 'running';
    };
    for (const [stopsOn, short, error] of [
      ['errors', false, false],
      ['errors-but-short', true, false],
      ['nothing', true, true],
    ] as const) {
      it(`${stopsOn}`, () => {
        assert.deepEqual(
          [starts('ok', { stopsOn }), starts('short', { stopsOn }), starts('error', { stopsOn })],
          [true, short, error],
        );
      });
    }
    rows(
      { stopsOn: 'nothing' },
      {
        'isochronous: an unlink stops nothing': [
          ...QUEUED,
          'unlink b -> giveBackUnlinked b',
          'unlink a -> cancel a',
          'unlinked a -> giveBack a, start c',
        ],
      },
    );
    rows(
      { recovery: { kind: 'none' } },
      {
        'no recovery: everything goes on': [
          ...QUEUED,
          'error a -> giveBack a, start b',
          'unlink b -> cancel b',
          'unlinked b -> giveBack b, start c',
        ],
      },
    );
  });

  describe('Tests for the end of a session (closed)', () => {
    const stops: Record<string, readonly Line[]> = {
      running: [
        'submit a -> start a',
        'unlink a -> cancel a',
        'closed',
        'unlinked a -> giveBack a',
      ],
      stopping: [
        'submit a -> start a',
        'submit b -> start b',
        'error a -> cancel b',
        'unlink b',
        'closed -> giveBack a',
        'unlinked b',
        'closed -> giveBack b',
      ],
      settling: [
        ...QUEUED,
        'error a',
        'unlink c -> giveBackUnlinked c',
        'unlink b -> giveBackUnlinked b',
        'closed -> giveBack a',
      ],
      holding: [
        ...QUEUED,
        'error a',
        'wait 5 -> giveBack a',
        'unlink c -> giveBackUnlinked c',
        'closed',
      ],
    };
    for (const [phase, lines] of Object.entries(stops)) {
      it(`while ${phase}: all is given back, and no timer is left`, () => {
        const bench = new Bench({ recovery: TIMED, flightMax: phase === 'stopping' ? 2 : 1 });
        bench.run([...lines, 'closed', 'wait 5000']);
        assert.equal(bench.queue.fence.deadline, Number.POSITIVE_INFINITY);
        assert.deepEqual([...bench.queue.flight, ...bench.queue.ended], []);
      });
    }
  });

  it('refuses to end what was not started', () => {
    assert.throws(() => new Bench().run(['ok a']), /Cannot take a transfer from its queue/);
  });

  describe('The table', () => {
    it('has the transitions that these tests have taken, and no others', () => {
      phases.assertAllTaken(TRANSITIONS);
    });
  });
});
