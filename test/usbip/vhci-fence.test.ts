import { strict as assert } from 'node:assert';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VhciFence } from '../../src/usbip/vhci-fence.ts';
import {
  canWatch,
  type VhciThreads,
  vhciThreads,
  watchThreads,
} from '../../src/usbip/vhci-threads.ts';

/** The kernel's side, moved by hand. */
class Kernel {
  wrote = 0;
  notRead = 0;
  receiver: boolean | undefined = true;
  sender: boolean | undefined = true;
  got = 0;
  inSocket = 0;
  written = () => this.wrote;
  unread = () => this.notRead;
  receiverSleeps = () => this.receiver;
  senderSleeps = () => this.sender;
  received = () => this.got;
  arrived = () => this.inSocket;
}

describe('fence towards vhci', () => {
  let kernel: Kernel;
  let fence: VhciFence;

  beforeEach(() => {
    kernel = new Kernel();
    fence = new VhciFence(kernel);
    kernel.wrote = 48;
  });

  it('wants nothing while nothing was reported', () => {
    assert.equal(fence.waits, false);
    assert.equal(fence.look(0), -1);
  });

  it('opens when vhci_rx has read on, vhci_tx slept, and all that came of it is read', () => {
    kernel.notRead = 20;
    fence.reported(48);
    assert(fence.waits);
    assert.equal(fence.look(0), -1, 'the report is not read');
    kernel.notRead = 0;
    kernel.receiver = false;
    kernel.sender = false;
    assert.equal(fence.look(1), -1, 'its handler runs');
    kernel.receiver = true;
    assert.equal(fence.look(2), -1, 'vhci_tx is sending');
    kernel.sender = true;
    kernel.got = 100;
    kernel.inSocket = 96;
    assert.equal(fence.look(3), -1, 'two unlinks are in the socket');
    kernel.got = 195;
    assert.equal(fence.look(4), -1, 'one octet is missing');
    kernel.got = 196;
    assert.equal(fence.look(5), 48);
    assert.equal(fence.waits, false);
    assert.deepEqual([fence.rounds, fence.timedRounds], [1, 0]);
  });

  it('takes octets read behind the report for a handler that has returned', () => {
    kernel.wrote = 96;
    kernel.notRead = 47;
    kernel.receiver = false;
    fence.reported(48);
    assert.equal(fence.look(0), 48);
  });

  it('does not take a sleep for one that was before the handler', () => {
    fence.reported(48);
    kernel.receiver = false;
    fence.look(0);
    kernel.sender = true;
    assert.equal(fence.look(1), -1);
    kernel.sender = false;
    kernel.receiver = true;
    assert.equal(fence.look(2), -1);
    kernel.sender = true;
    assert.equal(fence.look(3), 48);
  });

  it('begins another round for what was reported meanwhile', () => {
    kernel.sender = false;
    fence.reported(48);
    assert.equal(fence.look(0), -1);
    kernel.wrote = 144;
    kernel.notRead = 48;
    fence.reported(144);
    kernel.sender = true;
    assert.equal(fence.look(1), 48);
    assert(fence.waits);
    assert.equal(fence.look(2), -1);
    kernel.notRead = 0;
    assert.equal(fence.look(3), 144);
    assert.equal(fence.waits, false);
  });

  it('goes by time where threads cannot be watched', () => {
    kernel.receiver = undefined;
    kernel.sender = undefined;
    kernel.notRead = 1;
    fence.reported(48);
    assert.equal(fence.look(0), -1);
    assert.equal(fence.look(500), -1, 'not by time while the report is not read');
    kernel.notRead = 0;
    assert.equal(fence.look(501), -1);
    assert.equal(fence.look(510), -1);
    assert.equal(fence.look(511), 48);
    assert.equal(fence.timedRounds, 1);
  });

  it('does not wait for ever for a thread that never sleeps', () => {
    kernel.sender = false;
    fence.reported(48);
    assert.equal(fence.look(0), -1);
    assert.equal(fence.look(999), -1);
    assert.equal(fence.look(1000), 48);
    assert.equal(fence.timedRounds, 1);
  });
});

describe('threads of vhci', () => {
  let proc: string;
  const wchan = (pid: number, where: string) =>
    writeFileSync(join(proc, String(pid), 'wchan'), where);
  const thread = (pid: number, name: string, where = '0') => {
    mkdirSync(join(proc, String(pid)));
    writeFileSync(join(proc, String(pid), 'comm'), `${name}\n`);
    wchan(pid, where);
  };

  beforeEach(() => {
    proc = mkdtempSync(join(tmpdir(), 'urbgate-proc-'));
    thread(2, 'kthreadd', 'kthreadd');
    thread(90, 'vhci_rx', 'unix_stream_data_wait');
    thread(91, 'vhci_tx', 'vhci_tx_loop');
  });

  afterEach(() => rmSync(proc, { recursive: true, force: true }));

  it('watches those that are new', () => {
    const before = vhciThreads(proc);
    assert.deepEqual([...before.keys()].sort(), [90, 91]);
    thread(100, 'vhci_rx', '0');
    thread(101, 'vhci_tx', 'unix_stream_sendmsg');
    const threads = watchThreads(before, proc);
    assert.equal(threads.receiverSleeps(), false);
    assert.equal(threads.senderSleeps(), false, 'it waits for room, with more to send');
    wchan(100, 'unix_stream_read_generic');
    wchan(101, 'vhci_tx_loop');
    assert.equal(threads.receiverSleeps(), true);
    assert.equal(threads.senderSleeps(), true);
    threads.close();
    assert.equal(threads.senderSleeps(), undefined);
  });

  it('waits for all of them if another attach made some too', () => {
    const before = vhciThreads(proc);
    for (const pid of [100, 102]) thread(pid, 'vhci_tx', 'vhci_tx_loop');
    const threads = watchThreads(before, proc);
    assert.equal(threads.senderSleeps(), true);
    wchan(102, '0');
    assert.equal(threads.senderSleeps(), false);
    assert.equal(threads.receiverSleeps(), undefined, 'there is none to watch');
    threads.close();
  });

  describe('with PREEMPT_RT', () => {
    let threads: VhciThreads;
    const schedule = (state: string, runs: number) => {
      writeFileSync(join(proc, '101', 'stat'), `101 (vhci_tx) ${state} 2 0 0 0 -1 2129984`);
      writeFileSync(join(proc, '101', 'schedstat'), `4711 815 ${runs}\n`);
    };

    beforeEach(() => {
      const before = vhciThreads(proc);
      thread(101, 'vhci_tx', 'vhci_tx_loop');
      schedule('S', 7);
      threads = watchThreads(before, proc, true);
    });

    afterEach(() => threads.close());

    it('a thread that waits for work sleeps', () => {
      assert.equal(threads.senderSleeps(), true);
    });

    it('a thread that waits for a spinlock does not', () => {
      schedule('D', 8);
      assert.equal(threads.senderSleeps(), false);
    });

    it('nor does one of which nobody knows how often it has run', () => {
      schedule('S', 0);
      assert.equal(threads.senderSleeps(), false);
    });
  });

  it('knows from which kernel on it can', () => {
    const kernels = ['5.15.0-1-amd64', '5.16', '6.1.0-56-amd64', '4.19.1'];
    const watchable = kernels.map((kernel) => canWatch(kernel));
    assert.deepEqual(watchable, [false, true, true, false]);
  });
});
