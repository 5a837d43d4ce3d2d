import { strict as assert } from 'node:assert';
import { Looks } from '../../src/xenring/looks.ts';

/** Later than any that a look needs to come to its end. */
const MICROTASKS_MAX = 20;

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('looks', () => {
  it('a change at any moment of a look, or just behind it, has one more', async () => {
    for (let late = 0; late < MICROTASKS_MAX; late++) {
      let count = 0;
      const looks = new Looks(async () => {
        count++;
        await undefined;
      });
      looks.ask();
      for (let n = 0; n < late; n++) await undefined;
      const before = count;
      looks.ask();
      await turn();
      assert.equal(count, before + 1, `asked ${late} microtasks after the first time`);
    }
  });

  it('many changes during a look are one more', async () => {
    let count = 0;
    const looks = new Looks(async () => {
      count++;
      await turn();
    });
    for (let n = 0; n < 10; n++) looks.ask();
    await looks.ended();
    assert.equal(count, 2);
  });

  it('none begins after the stop', async () => {
    let count = 0;
    const looks = new Looks(async () => {
      count++;
      await turn();
    });
    looks.ask();
    looks.ask();
    looks.stop();
    looks.ask();
    await looks.ended();
    await turn();
    assert.equal(count, 1);
  });
});
