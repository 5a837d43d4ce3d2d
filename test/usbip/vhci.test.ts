import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseStatus, Vhci } from '../../src/usbip/vhci.ts';

/** As Debian's 6.1 prints it: a device at port 0, one on its way at 1, one at the other hub. */
const STATUS = `hub port sta spd dev      sockfd local_busid
hs  0000 006 003 00010002 000003 3-1
hs  0001 005 000 00000000 000000 0-0
hs  0002 004 000 00000000 000000 0-0
ss  0008 006 005 00010003 000004 4-1
ss  0009 004 000 00000000 000000 0-0
`;
const STATUS_1 = `hub port sta spd dev      sockfd local_busid
hs  0016 004 000 00000000 000000 0-0
ss  0024 007 000 00000000 000000 0-0
`;

describe('vhci in sysfs', () => {
  let folder: string;
  let state: string;
  let vhci: Vhci;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'urbgate-vhci-'));
    state = join(folder, 'state');
    writeFileSync(join(folder, 'status'), STATUS);
    writeFileSync(join(folder, 'status.1'), STATUS_1);
    writeFileSync(join(folder, 'attach'), '');
    writeFileSync(join(folder, 'detach'), '');
    vhci = new Vhci(folder, state);
  });

  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const attached = () => readFileSync(join(folder, 'attach'), 'utf8');
  const detached = () => readFileSync(join(folder, 'detach'), 'utf8');

  it('reads the ports of all controllers', () => {
    const ports = vhci.ports();
    assert.deepEqual(
      ports.map(({ port, hub, state: is, localBusId }) => `${hub} ${port} ${is} ${localBusId}`),
      [
        'hs 0 used 3-1',
        'hs 1 attaching null',
        'hs 2 free null',
        'ss 8 used 4-1',
        'ss 9 free null',
        'hs 16 free null',
        'ss 24 error null',
      ],
    );
    assert.equal(ports[0]?.deviceId, 0x00010002);
  });

  it('passes over what makes no sense', () => {
    assert.deepEqual(parseStatus(''), []);
    assert.deepEqual(parseStatus('xx 0000 004\nhs -1 004\nhs 0000 099 000 0 0 0-0\nhs'), []);
  });

  it('attaches to the first free port of the right hub', () => {
    assert.equal(vhci.attach(7, 0x10002, 'high'), 2);
    assert.equal(attached(), '2 7 65538 3');
    assert.equal(vhci.attach(7, 0x10002, 'super'), 9);
    assert.equal(attached(), '9 7 65538 5');
    assert.equal(vhci.attach(7, 1, 'low'), 2);
    assert.equal(attached(), '2 7 1 1');
  });

  it('attaches to the wanted port if that can be', () => {
    assert.equal(vhci.attach(7, 1, 'full', 16), 16);
    assert.equal(vhci.attach(7, 1, 'full', 0), 2, 'it is used');
    assert.equal(vhci.attach(7, 1, 'full', 9), 2, 'it is of the other hub');
  });

  it('says when there is no port, no vhci, no right', () => {
    writeFileSync(join(folder, 'status'), STATUS.replaceAll(' 004 ', ' 006 '));
    assert.throws(() => vhci.attach(7, 1, 'super'), /no ss port of vhci is free/);
    rmSync(join(folder, 'status.1'));
    assert.throws(() => vhci.attach(7, 1, 'high'), /no hs port of vhci is free/);
    assert.throws(() => new Vhci(join(folder, 'none')).ports(), /modprobe vhci-hcd/);
  });

  it('detaches', () => {
    vhci.record(0, { host: '10.0.0.1', service: '3240', busId: '1-1' });
    assert.equal(vhci.detach(0), true);
    assert.equal(detached(), '0');
    assert(!existsSync(state), 'the state folder stays');
    assert.equal(vhci.detach(2), false);
    assert.throws(() => vhci.detach(99), /no such port/);
  });

  it('keeps the state files as the tools do', () => {
    vhci.record(0, { host: '10.0.0.1', service: '3240', busId: '1-1' });
    vhci.record(9, { host: '::1', service: '3241', busId: '1-2' });
    assert.equal(readFileSync(join(state, 'port0'), 'utf8'), '10.0.0.1 3240 1-1\n');
    assert.deepEqual(vhci.recorded(9), { host: '::1', service: '3241', busId: '1-2' });
    vhci.forget(9);
    assert.equal(vhci.recorded(9), undefined);
    assert(existsSync(join(state, 'port0')));
  });

  it('writes through no link, and does not wait for a pipe, in the place of a state file', () => {
    const other = join(folder, 'other');
    writeFileSync(other, 'mine');
    mkdirSync(state);
    symlinkSync(other, join(state, 'port0'));
    execFileSync('mkfifo', [join(state, 'port9')]);
    assert.equal(vhci.recorded(9), undefined);
    for (const port of [0, 9]) {
      vhci.record(port, { host: '::1', service: '3241', busId: '1-2' });
      assert(lstatSync(join(state, `port${port}`)).isFile());
    }
    assert.equal(readFileSync(other, 'utf8'), 'mine');
    writeFileSync(join(state, 'port0'), 'x'.repeat(1 << 20));
    assert.equal(vhci.recorded(0), undefined);
  });
});
