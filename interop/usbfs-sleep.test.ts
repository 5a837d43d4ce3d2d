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
const START_SECONDS = 120;
const SLEEP_SECONDS = 60;

const inCheckout = (...names: string[]) => join(checkoutFolder(), ...names);

/** Has the device twice: until the connection ends, and again. Each of its lines is looked for below. */
const CLIENT = `
import { importDevice } from '${inCheckout('dist', 'src', 'usbip', 'client.js')}';
const server = { host: '127.0.0.1', port: Number(process.argv[2]) };
const setup = Buffer.from([0, 9, 1, 0, 0, 0, 0, 0]);
for (let life = 1; life <= 2; life++) {
  let device;
  while (device === undefined) {
    device = await importDevice(server, '${BUS_ID}').catch(() => undefined);
    if (device === undefined) await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const { status } = await device.transfer({ endpoint: 0, type: 'control', setup });
  for (let n = 0; n < ${READS}; n++) {
    const read = { endpoint: 0x81, type: 'interrupt', octets: 8, interval: 8 };
    device.submit(read, (result) => console.log('read', n, result.status, result.actualOctets));
  }
  console.log('has it', life, status);
  await device.closed;
  console.log('lost it', life);
}`;

describe('a machine that sleeps, with a device exported through usbfs', function () {
  this.timeout(300_000);
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
    client.end();
    await client.printed(/has it 1 ok/, START_SECONDS);
    const sleep = guest.start(
      'echo devices > /sys/power/pm_test; echo mem > /sys/power/state; echo awake $?',
    );
    await sleep.printed(/awake 0/, SLEEP_SECONDS);
    await client.printed(/has it 2 ok/, SLEEP_SECONDS);
    const lines = client.stdout.trim().split('\n');
    const reads = lines.filter((line) => line.startsWith('read')).sort();
    assert.deepEqual(
      reads,
      Array.from({ length: READS }, (_, n) => `read ${n} shutdown 0`),
    );
    assert.equal(lines.filter((line) => line === 'lost it 1').length, 1);
    assert.match(gateway.stdout, new RegExp(`${BUS_ID} has gone: .*this machine slept`));
  });
});
