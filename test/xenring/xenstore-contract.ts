/** What a store does for its clients, xenstored as well as our own. */
import { strict as assert } from 'node:assert';
import type { XenstoreClient } from '../../src/xenring/xenstore.ts';
import { PAYLOAD_OCTETS_MAX, StoreError } from '../../src/xenring/xenstore-wire.ts';
import { pause, until } from './platform/until.ts';

/** Two connections of domain 0. */
export interface Clients {
  readonly store: XenstoreClient;
  readonly other: XenstoreClient;
}

export function storeContract(clients: () => Clients): void {
  const failsWith = (code: string, work: Promise<unknown>) =>
    assert.rejects(work, (error: Error) => {
      assert(error instanceof StoreError, String(error));
      assert.equal(error.code, code);
      assert.match(error.message, /^Cannot /);
      return true;
    });

  afterEach(() => clients().store.remove('/contract'));

  describe('nodes', () => {
    it('are written with those above, read, listed and removed', async () => {
      const { store, other } = clients();
      assert.equal(await store.read('/contract/a/b'), undefined);
      assert.equal(await store.list('/contract'), undefined);
      await store.write('/contract/a/b', 'value');
      await store.write('/contract/c', '');
      assert.equal(await other.read('/contract/a/b'), 'value');
      assert.equal(await store.read('/contract/a'), '');
      assert.deepEqual((await store.list('/contract'))?.sort(), ['a', 'c']);
      assert.deepEqual(await store.list('/contract/c'), []);
      await store.write('/contract/a/b', 'other');
      assert.equal(await other.read('/contract/a/b'), 'other');
      await store.remove('/contract/a');
      assert.equal(await store.read('/contract/a/b'), undefined);
      assert.deepEqual(await store.list('/contract'), ['c']);
      await store.remove('/contract/a');
      await store.remove('/contract/x/y/z');
    });

    it('hold any text', async () => {
      const { store } = clients();
      for (const value of ['ä€😀', ' \n\t', '\u0000inside\u0000', '0'.repeat(2000)]) {
        await store.write('/contract/text', value);
        assert.equal(await store.read('/contract/text'), value);
      }
    });

    it('whose value is too long for a message are refused here', async () => {
      const { store } = clients();
      await failsWith('EMSGSIZE', store.write('/contract/long', 'x'.repeat(PAYLOAD_OCTETS_MAX)));
      assert.equal(await store.read('/contract/long'), undefined);
    });

    it('of a wrong name are refused', async () => {
      const { store } = clients();
      for (const path of ['', '/a//b', '/a/', '/a b', '/a\0b', '/ä', `/${'x'.repeat(4000)}`]) {
        await failsWith('EINVAL', store.read(path));
        await failsWith('EINVAL', store.write(path, ''));
      }
    });

    it('in great number are listed, in parts', async () => {
      const { store } = clients();
      const names = Array.from({ length: 500 }, (_, index) => `a-rather-long-name-${index}`);
      await Promise.all(names.map((name) => store.write(`/contract/many/${name}`, '')));
      assert.deepEqual((await store.list('/contract/many'))?.sort(), names.sort());
    });

    it('a hundred requests at once get their own answers', async () => {
      const { store } = clients();
      const all = Array.from({ length: 100 }, (_, index) => index);
      await Promise.all(all.map((one) => store.write(`/contract/n${one}`, `${one}`)));
      const values = await Promise.all(all.map((one) => store.read(`/contract/n${one}`)));
      assert.deepEqual(values, all.map(String));
    });
  });

  describe('permissions', () => {
    it('are set, read, and inherited', async () => {
      const { store } = clients();
      assert.equal(await store.permissions('/contract/p'), undefined);
      await store.write('/contract/p', '');
      const permissions = {
        owner: 0,
        others: 'none',
        exceptions: [
          { domain: 3, access: 'read' },
          { domain: 4, access: 'both' },
          { domain: 5, access: 'write' },
        ],
      } as const;
      await store.setPermissions('/contract/p', permissions);
      assert.deepEqual(await store.permissions('/contract/p'), permissions);
      await store.write('/contract/p/below', '');
      assert.deepEqual(await store.permissions('/contract/p/below'), permissions);
      await store.setPermissions('/contract/p', { owner: 0, others: 'read' });
      assert.equal((await store.permissions('/contract/p'))?.others, 'read');
      await failsWith('ENOENT', store.setPermissions('/contract/absent', permissions));
    });
  });

  describe('watches', () => {
    it('fire once at first, then for the node and all below', async () => {
      const { store, other } = clients();
      const seen: string[] = [];
      const watch = await store.watch('/contract/w', (changed) => seen.push(changed));
      await until('the first is there', () => seen.length > 0);
      assert.deepEqual(seen, ['/contract/w']);
      await other.write('/contract/w', '1');
      await other.write('/contract/w/a/b', '2');
      await other.write('/contract/wa', 'beside it');
      await other.write('/contract', 'above it');
      await other.setPermissions('/contract/w', { owner: 0, others: 'read' });
      await other.remove('/contract/w/a');
      await until('all are there', () => seen.length >= 5);
      await pause(20);
      assert.deepEqual(seen.slice(1), [
        '/contract/w',
        '/contract/w/a/b',
        '/contract/w',
        '/contract/w/a',
      ]);
      await watch.end();
    });

    it('fire when a node above is removed', async () => {
      const { store, other } = clients();
      await store.write('/contract/above/it', '');
      const seen: string[] = [];
      const watch = await store.watch('/contract/above/it', (changed) => seen.push(changed));
      await until('the first is there', () => seen.length > 0);
      await other.remove('/contract/above');
      await until('the removal is told', () => seen.length > 1);
      assert.deepEqual(seen, ['/contract/above/it', '/contract/above/it']);
      await watch.end();
    });

    it('are told of what their own connection does, too', async () => {
      const { store } = clients();
      let calls = 0;
      const watch = await store.watch('/contract/own', () => {
        calls++;
      });
      await until('the first is there', () => calls === 1);
      await store.write('/contract/own', '1');
      await until('the change is told', () => calls === 2);
      await watch.end();
    });

    it('are silent after their end, and are counted', async () => {
      const { store, other } = clients();
      const before = store.watches;
      const calls = [0, 0];
      const first = await store.watch('/contract/e', () => {
        calls[0] = (calls[0] ?? 0) + 1;
      });
      const second = await store.watch('/contract/e', () => {
        calls[1] = (calls[1] ?? 0) + 1;
      });
      await until('both are there', () => calls[0] === 1 && calls[1] === 1);
      assert.equal(store.watches, before + 2);
      await first.end();
      await first.end();
      await other.write('/contract/e', '1');
      await until('the second is told', () => calls[1] === 2);
      assert.equal(calls[0], 1);
      await second.end();
      assert.equal(store.watches, before);
    });
  });

  describe('transactions', () => {
    it('are seen by others as one, at their end', async () => {
      const { store, other } = clients();
      const seen: string[] = [];
      const watch = await other.watch('/contract/t', (changed) => seen.push(changed));
      await until('the first is there', () => seen.length === 1);
      const result = await store.transaction(async (inside) => {
        await inside.write('/contract/t/a', '1');
        await inside.write('/contract/t/b', '2');
        await inside.setPermissions('/contract/t/b', { owner: 0, others: 'read' });
        await inside.write('/contract/t/c', '3');
        await inside.remove('/contract/t/c');
        assert.equal(await inside.read('/contract/t/a'), '1');
        assert.deepEqual((await inside.list('/contract/t'))?.sort(), ['a', 'b']);
        assert.equal((await inside.permissions('/contract/t/b'))?.others, 'read');
        assert.equal(await other.read('/contract/t/a'), undefined);
        return 'done';
      });
      assert.equal(result, 'done');
      assert.equal(await other.read('/contract/t/a'), '1');
      assert.deepEqual((await other.list('/contract/t'))?.sort(), ['a', 'b']);
      await until('the changes are told', () => seen.includes('/contract/t/b'));
      await watch.end();
    });

    it('an exception abandons them', async () => {
      const { store } = clients();
      const failure = new Error('no');
      await assert.rejects(
        store.transaction(async (inside) => {
          await inside.write('/contract/gone', '1');
          throw failure;
        }),
        failure,
      );
      assert.equal(await store.read('/contract/gone'), undefined);
    });

    it('run again when somebody else changed what they looked at', async () => {
      const { store, other } = clients();
      await store.write('/contract/count', '0');
      let runs = 0;
      await store.transaction(async (inside) => {
        runs++;
        const count = Number(await inside.read('/contract/count'));
        if (runs < 3) await other.write('/contract/count', `${count + 10}`);
        await inside.write('/contract/count', `${count + 1}`);
      });
      assert.equal(runs, 3);
      assert.equal(await store.read('/contract/count'), '21');
    });

    it('see nodes that others make meanwhile where there were none', async () => {
      const { store, other } = clients();
      let runs = 0;
      await store.transaction(async (inside) => {
        runs++;
        const there = await inside.read('/contract/new');
        if (runs === 1) await other.write('/contract/new', 'other');
        if (there === undefined) await inside.write('/contract/new', 'mine');
      });
      assert.equal(await store.read('/contract/new'), 'other');
    });

    it('of two at a time lose nothing', async () => {
      const { store, other } = clients();
      await store.write('/contract/sum', '0');
      const add = async (client: XenstoreClient) => {
        for (let round = 0; round < 20; round++) {
          await client.transaction(async (inside) => {
            const sum = Number(await inside.read('/contract/sum'));
            await inside.write('/contract/sum', `${sum + 1}`);
          });
        }
      };
      await Promise.all([add(store), add(other)]);
      assert.equal(await store.read('/contract/sum'), '40');
    });
  });
}
