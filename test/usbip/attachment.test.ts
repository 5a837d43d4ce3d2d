import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import {
  type AttachmentEvent,
  type AttachmentOptions,
  attachment,
  pauseMilliseconds,
  step,
} from '../../src/usbip/attachment.ts';

const LOST: AttachmentEvent = { type: 'lost', why: 'the server has gone' };
const FAILED: AttachmentEvent = { type: 'failed', why: 'nothing listens there' };

describe('attachment', () => {
  const run = (options: Partial<AttachmentOptions>, ...events: AttachmentEvent[]) => {
    const one = attachment({ wait: false, persist: false, ...options });
    let now = 0;
    const actions = events.map((event) => {
      now = event.type === 'elapsed' && one.deadline < Infinity ? one.deadline : now + 1;
      return step(one, event, now, 0.5);
    });
    return { ...one, actions };
  };
  const event = (type: 'connected' | 'detached' | 'stop' | 'elapsed'): AttachmentEvent => ({
    type,
  });

  it('ends at the first failure unless it is to wait', () => {
    assert.equal(run({}, FAILED).phase, 'ended');
    assert.equal(run({ persist: true }, FAILED).phase, 'ended', 'it was never there');
    const waiting = run({ wait: true }, FAILED);
    assert.equal(waiting.phase, 'waiting');
    assert.equal(waiting.why, FAILED.type === 'failed' && FAILED.why);
    const { phase, actions } = run({ wait: true }, FAILED, event('elapsed'));
    assert.deepEqual([phase, actions], ['connecting', ['none', 'connect']]);
  });

  it('ends when it is lost unless it is to persist', () => {
    assert.equal(run({}, event('connected'), LOST).phase, 'ended');
    assert.equal(run({ wait: true }, event('connected'), LOST).phase, 'ended');
    const events = [event('connected'), LOST, event('elapsed'), FAILED, event('elapsed')];
    const persistent = run({ persist: true }, ...events, event('connected'));
    assert.equal(persistent.phase, 'attached');
    assert.deepEqual(persistent.actions, ['none', 'none', 'connect', 'none', 'connect', 'none']);
  });

  it('does not come back when it was detached here', () => {
    assert.equal(run({ persist: true }, event('connected'), event('detached')).phase, 'ended');
  });

  it('can be stopped in every phase', () => {
    assert.deepEqual(run({}, event('stop')).actions, ['letGo']);
    assert.deepEqual(run({}, event('connected'), event('stop')).actions, ['none', 'letGo']);
    assert.deepEqual(run({ wait: true }, FAILED, event('stop')).actions, ['none', 'letGo']);
    assert.deepEqual(run({}, FAILED, event('stop')).actions, ['none', 'none']);
  });

  it('does not take an answer that comes after the stop', () => {
    assert.equal(run({}, event('stop'), event('connected')).phase, 'ended');
  });

  it('waits for its deadline', () => {
    const one = attachment({ wait: true, persist: false });
    step(one, FAILED, 100, 1);
    assert.equal(step(one, event('elapsed'), one.deadline - 1, 1), 'none');
    assert.equal(step(one, event('elapsed'), one.deadline, 1), 'connect');
  });

  it('pauses longer each time, up to a limit, and never alike for all', () => {
    const longest = [0, 1, 2, 3, 4, 5, 6, 100].map((tries) => pauseMilliseconds(tries, 1));
    assert.deepEqual(longest, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    assert.equal(pauseMilliseconds(6, 0), 5000);
  });

  it('whatever happens: a deadline only while it waits, and no way out of the end', () => {
    const events = fc.constantFrom<AttachmentEvent>(
      FAILED,
      LOST,
      ...(['connected', 'detached', 'stop', 'elapsed'] as const).map(event),
    );
    const options = fc.record({ wait: fc.boolean(), persist: fc.boolean() });
    const property = fc.property(options, fc.array(events, { maxLength: 30 }), (wanted, list) => {
      const one = attachment(wanted);
      let now = 0;
      for (const each of list) {
        const before = one.phase;
        now += 20_000;
        const action = step(one, each, now, 0.5);
        assert.equal(one.phase === 'waiting', one.deadline < Infinity);
        if (before === 'ended') assert.deepEqual([one.phase, action], ['ended', 'none']);
        assert.equal(action === 'connect', before === 'waiting' && one.phase === 'connecting');
      }
    });
    fc.assert(property, { seed: 6 });
  });
});
