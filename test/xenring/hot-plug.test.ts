import { strict as assert } from 'node:assert';
import { HotPlug } from '../../src/xenring/hot-plug.ts';
import { PortWatch } from '../../src/xenring/port-watch.ts';
import { RingError } from '../../src/xenring/ring-error.ts';

function pair() {
  const page = Buffer.from(new ArrayBuffer(4096));
  const log: string[] = [];
  let kicks = 0;
  const watch = new PortWatch(
    page,
    () => kicks++,
    (port, speed) => log.push(`${port} ${speed}`),
  );
  return { page, log, watch, plug: new HotPlug(page), kicks: () => kicks };
}

describe('conn ring', () => {
  it('tells each change, around the ring more than once', () => {
    const { log, watch, plug } = pair();
    for (let n = 0; n < 700; n++) {
      plug.tell(1 + (n % 31), n % 2 ? 'high' : 'full');
      plug.work();
      watch.work();
    }
    assert.equal(log.length, 31 + 2 * (700 - 31));
    assert.deepEqual(log.slice(-2), [`${1 + (699 % 31)} none`, `${1 + (699 % 31)} high`]);
  });

  it('keeps only the last speed of a port that it cannot tell, and tells it when there is room', () => {
    const { log, watch, plug, kicks } = pair();
    for (let n = 0; n < 2000; n++) {
      plug.tell(1, n % 2 ? 'high' : 'low');
      plug.work();
    }
    const before = kicks();
    watch.work();
    assert.equal(kicks(), before + 1, 'the front end is asked to say when it has made room');
    log.length = 0;
    plug.work();
    watch.work();
    assert.equal(log.at(-1), '1 high');
    assert(log.length <= 2);
  });

  it('wants an event when the front end sleeps, and none when there is nothing to tell', () => {
    const { watch, plug } = pair();
    watch.work();
    assert.equal(plug.work(), false);
    plug.tell(3, 'high');
    assert.equal(plug.work(), true);
    assert.equal(plug.work(), false);
  });

  it('goes on where a back end before it stopped', () => {
    const { page, log, watch, plug } = pair();
    plug.tell(1, 'high');
    plug.work();
    watch.work();
    const next = new HotPlug(page);
    next.tell(1, 'none');
    next.tell(2, 'low');
    next.work();
    watch.work();
    assert.deepEqual(log, ['1 high', '1 none', '2 low']);
  });

  it('a front end does not believe in ports and speeds that cannot be', () => {
    for (const [port, speed] of [
      [0, 1],
      [32, 1],
      [1, 4],
      [255, 255],
    ] as const) {
      const { page, watch } = pair();
      page.writeUInt8(port, 64 + 2);
      page.writeUInt8(speed, 64 + 3);
      page.writeUInt32LE(1, 8);
      assert.throws(() => watch.work(), RingError);
    }
  });
});
