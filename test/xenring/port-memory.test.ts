import { strict as assert } from 'node:assert';
import {
  CONTROLLERS_REMEMBERED_MAX,
  type ControllerIdentity,
  PortMemory,
} from '../../src/xenring/port-memory.ts';

const GUEST: ControllerIdentity = { guest: '/vm/a', controller: '0' };
const PORTS = new Map([[2, '1-1']]);
const NOTHING = new Map();

describe('what was plugged into a guest that comes back', () => {
  let memory: PortMemory;
  beforeEach(() => {
    memory = new PortMemory();
    memory.remember(GUEST, 5, PORTS);
  });

  it('is found by the guest’s uuid when it has another number', () => {
    assert.deepEqual(memory.recall(GUEST, 6), PORTS);
    assert.deepEqual(memory.recall({ ...GUEST, guest: '/vm/b' }, 6), NOTHING);
    assert.deepEqual(memory.recall({ ...GUEST, controller: '1' }, 6), NOTHING);
  });

  it('is not for a controller that is added to a guest which never left', () => {
    assert.deepEqual(memory.recall(GUEST, 5), NOTHING);
  });

  it('is nothing once it was unplugged', () => {
    memory.remember(GUEST, 5, new Map());
    assert.deepEqual(memory.recall(GUEST, 6), NOTHING);
  });

  it('is bounded, and what changed longest ago goes first', () => {
    for (let n = 1; n < CONTROLLERS_REMEMBERED_MAX; n++) {
      memory.remember({ guest: `/vm/${n}`, controller: '0' }, 100 + n, PORTS);
    }
    memory.remember(GUEST, 5, PORTS);
    memory.remember({ guest: '/vm/more', controller: '0' }, 99, PORTS);
    assert.deepEqual(memory.recall({ guest: '/vm/1', controller: '0' }, 1), NOTHING);
    assert.deepEqual(memory.recall({ guest: '/vm/2', controller: '0' }, 1), PORTS);
    assert.deepEqual(memory.recall(GUEST, 6), PORTS);
  });
});
