/**
 * The machine that exports a device sleeps while a client reads from it: what is under way comes back
 * once, the client sees the device unplugged, and has it again when the machine has woken up.
 *
 * Linux's own test mode (pm_test) puts all devices to sleep for five seconds and needs no firmware. The
 * guest's root file system is one of them and does not wake up again, so what runs afterwards is in
 * memory before.
 */
import { strict as assert } from 'node:assert';
import { join } from 'node:path';
import { bootGuest, type Guest } from './lab/guest.ts';
import { checkoutFolder } from './lab/paths.ts';

const BUS_ID = '9-1';
const SERIAL = 'KEYS';
const READS = 4;
/** Of the client with the device; the machine sleeps between them. */
const LIVES = 3;
const START_SECONDS = 300;
const SLEEP_SECONDS = 240;

const inCheckout = (...names: string[]) => join(checkoutFolder(), ...names);

/**
 * Has the device until the connection ends, again and again. Each time it begins to read when it is told to.
 * Each of its lines is looked for below.
 */
const CLIENT = `
import { once } from 'node:events';
import { importDevice } from '${inCheckout('dist', 'src', 'usbip', 'client.js')}';
const server = { host: '127.0.0.1', port: Number(process.argv[2]) };
const setup = Buffer.from([0, 9, 1, 0, 0, 0, 0, 0]);
for (let life = 1; life <= ${LIVES}; life++) {
  let device;
  while (device === undefined) {
    device = await importDevice(server, '${BUS_ID}').catch(() => undefined);
    if (device === undefined) await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const { status } = await device.transfer({ endpoint: 0, type: 'control', setup });
  console.log('has it', life, status);
  await once(process.stdin, 'data');
  for (let n = 0; n < ${READS}; n++) {
    const read = { endpoint: 0x81, type: 'interrupt', octets: 8, interval: 8 };
    device.submit(read, (result) => console.log('life', life, 'read', n, result.status, result.actualOctets));
  }
  console.log('reads', life);
  await device.closed;
  console.log('lost it', life);
}`;

/** Puts the machine to sleep for each line that it reads. Nothing of it is in a file. */
const SLEEPER = `
echo 1 > /sys/module/suspend/parameters/pm_test_delay
while read number; do
  echo devices > /sys/power/pm_test; echo mem > /sys/power/state; echo awake $number $?
done`;

describe('a machine that sleeps, with a device exported through usbfs', function () {
  this.timeout(1_800_000);
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({
      name: 'usbfs-sleep',
      qemuArguments: [
        ...['-device', 'qemu-xhci,id=xhci'],
        ...['-device', `usb-kbd,bus=xhci.0,serial=${SERIAL}`],
      ],
    });
    await guest.succeed(
      `modprobe -a xhci-pci usbhid hid-generic
       cp ${process.execPath} /run/node
       ldd /run/node | grep -o '/[^ ]*' | xargs cat > /dev/null
       find ${inCheckout('node_modules')} -name '*.node' | xargs cat > /dev/null`,
      { timeoutSeconds: START_SECONDS },
    );
  });

  after(() => guest?.kill());

  it('is unplugged for the client, and plugged in again', async () => {
    const spec = `usb:*:*:${SERIAL},busid=${BUS_ID},force,wait`;
    const gateway = guest.start(
      `exec /run/node ${inCheckout('dist', 'src', 'cli', 'main.js')} serve --control none \
       --listen 127.0.0.1:0 --export '${spec}' 2>&1`,
    );
    const [, port] = await gateway.printed(/Listening on \S*:(\d+)[\s\S]*Exporting/, START_SECONDS);
    await guest.succeed('cat > /run/client.mjs', { input: CLIENT });
    const client = guest.start(`exec /run/node /run/client.mjs ${port} 2>&1`);
    const sleeper = guest.start(SLEEPER);
    for (let life = 1; life < LIVES; life++) {
      await client.printed(new RegExp(`has it ${life} ok`), START_SECONDS);
      // The second time the gateway hears of the reads when the machine is awake again.
      const isLate = life === 2;
      if (isLate) gateway.signal('SIGSTOP');
      client.write('read\n');
      await client.printed(new RegExp(`reads ${life}`), START_SECONDS);
      sleeper.write(`${life}\n`);
      await sleeper.printed(new RegExp(`awake ${life} 0`), SLEEP_SECONDS);
      if (isLate) gateway.signal('SIGCONT');
      await client.printed(new RegExp(`lost it ${life}`), SLEEP_SECONDS);
      assert.deepEqual(
        client.stdout.match(new RegExp(`^life ${life} read .*$`, 'gm'))?.sort(),
        Array.from({ length: READS }, (_, n) => `life ${life} read ${n} shutdown 0`),
      );
    }
    await client.printed(new RegExp(`has it ${LIVES} ok`), SLEEP_SECONDS);
    assert.equal(client.stdout.match(/lost it/g)?.length, LIVES - 1);
    const gone = new RegExp(`${BUS_ID} has gone: .*this machine slept`, 'g');
    assert.equal(gateway.stdout.match(gone)?.length, LIVES - 1);
  });
});
