/** What back ends in dom0 hold: for tests that nothing is left of a domain that has gone. */

import { strict as assert } from 'node:assert';
import { isDeepStrictEqual } from 'node:util';
import type { Guest } from './guest.ts';

export interface XenUsage {
  /** Grants of domains other than dom0 that somebody has mapped, each as "domain: line". */
  mappedGrants: string[];
  /** Event channels between dom0 and others, each as a line of lsevtchn. */
  channels: string[];
  /** Paths in xenstore below backend/vusb and device/vusb, and qusb alike. */
  usbNodes: string[];
  /** Names of the domains; "(null)" is one that is dead, but whose memory somebody holds. */
  domains: string[];
}

const MARK = '=====';
/** For a look that takes a second. */
const LOOK_TIMEOUT_SECONDS = 120;

/** Looks at all of dom0. It takes a second. */
export async function xenUsage(dom0: Guest): Promise<XenUsage> {
  const printed = await dom0.succeed(
    `set -e
xl dmesg -c > /dev/null
xl debug-keys g
xl dmesg
echo ${MARK}
lsevtchn 0
echo ${MARK}
xenstore-ls -f /local/domain
echo ${MARK}
xl list`,
    { timeoutSeconds: LOOK_TIMEOUT_SECONDS },
  );
  const [grants = '', channels = '', nodes = '', domains = ''] = printed.split(`${MARK}\n`);
  return {
    mappedGrants: mappedGrants(grants),
    channels: lines(channels).filter((line) => /Remote Domain (?!0,)/.test(line)),
    usbNodes: lines(nodes)
      .map((line) => line.split(' = ')[0] ?? '')
      .filter((path) => /\/(?:backend|device)\/[vq]usb(?:\/|$)/.test(path)),
    domains: lines(domains)
      .slice(1)
      .map((line) => line.split(/\s+/)[0] ?? ''),
  };
}

/** `xl` waits for back ends for 10 s, and removes what belongs to a domain's devices last. */
const CLEAN_SECONDS = 30;

/** Waits until all is as it was `before`. @throws AssertionError if it does not become so */
export async function usedAsBefore(dom0: Guest, before: XenUsage): Promise<void> {
  const end = performance.now() + CLEAN_SECONDS * 1000;
  let now = await xenUsage(dom0);
  while (!isDeepStrictEqual(now, before) && performance.now() < end) now = await xenUsage(dom0);
  assert.deepEqual(now, before);
}

/** The entries that Xen's debug key "g" prints, which are those that are in use. */
function mappedGrants(printed: string): string[] {
  const found: string[] = [];
  let domain = '';
  for (const line of lines(printed)) {
    domain = /grant-table for remote d(\d+)/.exec(line)?.[1] ?? domain;
    const entry = /\[0x[0-9a-f]+\].*/.exec(line)?.[0];
    if (entry !== undefined && domain !== '0') found.push(`${domain}: ${entry}`);
  }
  return found;
}

function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '');
}
