/**
 * Proof of the stall protocol in the small: every interleaving of a few URBs, errors, unlinks and
 * losses, with all invariants checked in every state, each run shown to end, and everything given
 * back at its end. MODEL_SCOPE=large for a longer run (5 million states, about ten minutes, 2 GB).
 */
import { strict as assert } from 'node:assert';
import type { StopsOn } from '../../src/stall/endpoint-queue.ts';
import { explore } from './explore.ts';
import type { Client, Driver, Fault, Scope } from './world.ts';

const large = process.env.MODEL_SCOPE === 'large';
const DRIVERS: readonly Driver[] = [
  'leaves',
  'unlinks',
  'resubmits',
  'unlinks+resubmits',
  'resubmits+unlinks',
];
const CLIENTS: readonly Client[] = ['exact', 'return', 'old'];

/** Of one endpoint: URBs queued at once, and later ones. */
const bulk = (urbs: number, later = 0) => queue('errors', urbs, later);
const queue = (stopsOn: StopsOn, urbs: number, later = 0) => ({ stopsOn, urbs, later });

/** The driver acts at any moment, beside what its handlers do. */
const freely = { unlinks: 1, losses: ['connection'] } as const;
/** The driver submits and unlinks in its handlers only. */
const inHandlers = { unlinks: 0, handlersOnly: true, losses: ['connection'] } as const;

interface Row {
  readonly name: string;
  readonly clients: readonly Client[];
  readonly drivers: readonly Driver[];
  readonly rest: Omit<Scope, 'client' | 'driver'>;
}

const rows: readonly Row[] = [
  {
    name: '2 endpoints, 4 URBs and a later one, 2 errors',
    clients: CLIENTS,
    drivers: DRIVERS,
    rest: { endpoints: [bulk(2, 1), bulk(2)], errors: 2, ...(large ? freely : inHandlers) },
  },
  {
    name: `1 endpoint, ${large ? 4 : 3} URBs and a later one, 2 errors, unlinks at any time`,
    clients: CLIENTS,
    drivers: large ? DRIVERS : ['leaves', 'unlinks', 'resubmits'],
    rest: { endpoints: [bulk(large ? 4 : 3, 1)], errors: 2, ...freely },
  },
  {
    name: 'a device that takes 2 URBs at a time',
    clients: ['exact', 'return'],
    drivers: ['leaves', 'unlinks', 'resubmits'],
    rest: { endpoints: [bulk(3, large ? 1 : 0)], errors: 2, flightMax: 2, ...freely },
  },
  {
    name: 'a device that takes 3 URBs at a time, 2 unlinks',
    clients: ['exact', 'return'],
    drivers: ['leaves', 'unlinks'],
    rest: { endpoints: [bulk(large ? 4 : 3)], errors: 1, unlinks: 2, flightMax: 3, losses: [] },
  },
  {
    name: 'a device that takes 3 URBs at a time, none behind the second',
    clients: ['exact', 'return', 'timed'],
    drivers: ['leaves', 'unlinks'],
    rest: { endpoints: [bulk(3)], errors: 1, flightMax: 3, blocking: 2, ...freely },
  },
  {
    name: 'the device goes away, then the connection',
    clients: CLIENTS,
    drivers: ['leaves', 'unlinks'],
    rest: { endpoints: [bulk(3)], errors: 1, unlinks: 1, losses: ['device', 'connection'] },
  },
  {
    name: 'unlinks that overtake their URBs',
    clients: ['exact'],
    drivers: ['leaves', 'unlinks', 'resubmits'],
    rest: { endpoints: [bulk(3, 1)], errors: 1, early: true, ...freely },
  },
  {
    name: 'isochronous beside bulk',
    clients: CLIENTS,
    drivers: ['unlinks'],
    rest: { endpoints: [queue('nothing', 2), bulk(2)], errors: 2, ...freely, losses: [] },
  },
  {
    name: 'control: short reads stop nothing',
    clients: CLIENTS,
    drivers: ['unlinks', 'resubmits'],
    rest: { endpoints: [queue('errors-but-short', 3, 1)], errors: 2, ...inHandlers },
  },
  {
    name: 'by time, I1 left out: 3 URBs, 2 errors, cleared at any time',
    clients: ['timed'],
    drivers: large ? DRIVERS : ['leaves', 'unlinks', 'resubmits'],
    rest: {
      endpoints: large ? [bulk(3, 1)] : [bulk(2, 1)],
      errors: 2,
      clears: 1,
      early: true,
      ...freely,
    },
  },
];

describe('every interleaving (exhaustive)', function () {
  this.timeout(large ? 3_600_000 : 300_000);
  let sum = 0;

  for (const { name, clients, drivers, rest } of rows) {
    for (const client of clients) {
      it(`${name}: client ${client}`, () => {
        const counts = drivers.map((driver) => {
          const { states, transitions, ends } = explore({ client, driver, ...rest });
          sum += states;
          assert(ends > 0);
          return `${driver} ${states} states, ${transitions} steps`;
        });
        console.log(`        ${counts.join('; ')}`);
      });
    }
  }

  after(() => console.log(`    ${sum} states in all, every invariant holds in each`));
});

describe('deliberate faults are caught', () => {
  const faults: [Fault, Client, Driver, RegExp][] = [
    ['no hold', 'exact', 'unlinks', /^I1: /],
    ['early retry', 'return', 'unlinks', /^I1: /],
    ['no waiting for all', 'return', 'unlinks', /^I1: /],
    ['no waiting for all', 'return', 'leaves', /^I3: /],
    ['double give-back', 'exact', 'unlinks', /^I2: /],
    ['double give-back', 'return', 'unlinks', /^I2: /],
    ['overtaking in flight', 'exact', 'leaves', /^I1: /],
  ];
  for (const [fault, client, driver, message] of faults) {
    it(`${fault}: client ${client}, driver ${driver}`, () => {
      const scope: Scope = { client, driver, endpoints: [bulk(3, 1)], errors: 2, ...freely };
      const several = fault === 'overtaking in flight' ? { flightMax: 2, blocking: 1 } : {};
      assert.throws(() => explore({ ...scope, ...several, fault }), { message });
    });
  }
});
