/**
 * The platform of a real hypervisor: the contract between two processes of one domain. Only where
 * there is one; `interop/` runs it in dom0.
 */
import { strict as assert } from 'node:assert';
import { existsSync } from 'node:fs';
import { UserError } from '../../../src/core/errors.ts';
import { openXenPlatform, type XenPlatform } from '../../../src/xenring/platform/xen.ts';
import {
  connectStore,
  connectStoreDevice,
  type XenstoreClient,
} from '../../../src/xenring/xenstore.ts';
import { storeContract } from '../xenstore-contract.ts';
import { platformContract } from './contract.ts';
import { Remote } from './remote.ts';

const isXen = existsSync('/dev/xen/gntdev');

describe('without Xen', () => {
  it('the platform says what is missing', async function () {
    if (isXen) this.skip();
    await assert.rejects(openXenPlatform(), (error: Error) => {
      assert(error instanceof UserError);
      assert.match(error.message, /^Cannot use Xen: \/dev\/xen\/gntdev is absent, wanted/);
      return true;
    });
  });
});

function onXen(this: Mocha.Suite): void {
  this.timeout(120_000);
  let here: XenPlatform;
  let there: Remote;

  before(async () => {
    here = await openXenPlatform();
    there = await Remote.start('xen', '', here.domain);
    assert.equal(there.domain, here.domain);
  });
  after(async () => {
    await there?.kill();
    await here?.close();
  });

  platformContract(() => ({ here, there }));

  for (const [name, connect] of [
    ['through the socket', connectStore],
    ['through the kernel', connectStoreDevice],
  ] as const) {
    describe(`the store, ${name}`, () => {
      let store: XenstoreClient;
      let other: XenstoreClient;
      before(async () => {
        store = await connect();
        other = await connect();
      });
      after(() => {
        store?.close();
        other?.close();
      });

      storeContract(() => ({ store, other }));

      it('knows this domain', async () => {
        assert.equal(await store.read('domid'), `${here.domain}`);
      });
    });
  }
}

if (isXen) describe('Xen', onXen);
