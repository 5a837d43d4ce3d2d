import { strict as assert } from 'node:assert';
import { readdirSync, readFileSync } from 'node:fs';
import dice from '../examples/dice.ts';
import oneKey from '../examples/one-key.ts';
import uppercase from '../examples/uppercase.ts';
import { Rig, setup, split } from './examples/rig.ts';

/** The sources, also when the tests run compiled; the working directory is the repository. */
const FOLDER = 'examples';
const EXAMPLE_LINES_MAX = 60;

describe('examples', () => {
  it('are short, and each is listed in the README and run here', () => {
    const readme = readFileSync(`${FOLDER}/README.md`, 'utf8');
    const files = readdirSync(FOLDER).filter((name) => name.endsWith('.ts'));
    assert.deepEqual(files.sort(), ['dice.ts', 'one-key.ts', 'uppercase.ts']);
    for (const name of files) {
      const lines = readFileSync(`${FOLDER}/${name}`, 'utf8').split('\n').length - 1;
      assert(lines <= EXAMPLE_LINES_MAX, `${name} has ${lines} lines`);
      assert(readme.includes(`\`${name}\``), `${name} is not in the README`);
    }
  });

  it('one-key types its letter and lets go', async () => {
    const rig = new Rig(oneKey);
    await rig.configure();
    const report = await rig.control(setup(0x81, 6, 0x2200, 0, 255));
    const hid = split(await rig.descriptor(2)).find((part) => part[1] === 0x21);
    assert.equal(hid?.readUInt16LE(7), report.actualOctets);
    assert.equal((await rig.control(setup(0x21, 10, 0, 0, 0))).status, 'ok');

    const poll = rig.read(0x81, 8);
    assert.equal(rig.pending, 1, 'nothing to say before the key is pressed');
    rig.state.press();
    assert.deepEqual([...(await poll).dataIn], [1]);
    assert.deepEqual([...(await rig.read(0x81, 8)).dataIn], [0]);
    await rig.end();
  });

  it('dice rolls what its seed says, within its sides', async () => {
    const rig = new Rig(dice);
    await rig.configure();
    const roll = (sides: number) => rig.control(setup(0xc0, 1, sides, 0, 1));
    const rolls: (number | undefined)[] = [];
    for (let n = 0; n < 600; n++) rolls.push((await roll(6)).dataIn[0]);
    assert.deepEqual(rolls.slice(0, 8), [2, 3, 4, 5, 1, 3, 5, 4]);
    assert.deepEqual([...new Set(rolls)].sort(), [1, 2, 3, 4, 5, 6]);
    assert.equal((await roll(1)).dataIn[0], 1);
    assert.equal((await roll(0)).status, 'stall');
    assert.equal((await roll(256)).status, 'stall');
    await rig.end();
  });

  it('uppercase answers each transfer, whatever its length', async () => {
    const rig = new Rig(uppercase);
    await rig.configure();
    for (const length of [1, 5, 511, 512, 513, 1024, 3000]) {
      const text = Buffer.from('abc{z~}\xff'.repeat(400), 'latin1').subarray(0, length);
      const written = await rig.write(0x01, text, true);
      assert.equal(written.actualOctets, length);
      const answer = (await rig.read(0x81, 4096)).dataIn;
      assert.deepEqual(
        Buffer.from(answer).toString('latin1'),
        text.toString('latin1').replace(/[a-z]/g, (letter) => letter.toUpperCase()),
      );
    }
    await rig.end();
  });

  it('uppercase makes a second transfer wait until the first is read, in any pieces', async () => {
    const rig = new Rig(uppercase);
    await rig.configure();
    await rig.write(0x01, Buffer.alloc(1000, 'a'));
    const second = rig.write(0x01, Buffer.from('second'));
    assert.equal(rig.pending, 1);
    assert.equal((await rig.read(0x81, 512)).actualOctets, 512);
    assert.equal((await rig.read(0x81, 512)).actualOctets, 488);
    await second;
    assert.equal(Buffer.from((await rig.read(0x81, 512)).dataIn).toString(), 'SECOND');
    await rig.end();
  });
});
