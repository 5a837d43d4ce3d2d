/** What both ends of a controller in a folder of `shm.ts` have left in memory and store: for messages. */
import { join } from 'node:path';
import { ShmSegment } from '../../src/xenring/platform/shm-segment.ts';
import type { Store } from '../../src/xenring/platform.ts';

const MAGIC_WORD = 5;

/** Never fails: what cannot be read says why. */
export async function dumpRing(folder: string, store: Store, domain: number): Promise<string> {
  const back = `/local/domain/0/backend/vusb/${domain}/0`;
  const front = `/local/domain/${domain}/device/vusb/0`;
  const nodes: Record<string, string | undefined> = {};
  try {
    for (const path of [`${back}/state`, `${back}/port/1`, `${front}/state`]) {
      nodes[path] = await store.read(path);
    }
    for (const name of ['urb-ring-ref', 'conn-ring-ref', 'event-channel']) {
      nodes[name] = await store.read(`${front}/${name}`);
    }
  } catch (error) {
    nodes.error = String(error);
  }
  const port = Number(nodes['event-channel']);
  const pages = new Map([
    ['urb ring', Number(nodes['urb-ring-ref'])],
    ['conn ring', Number(nodes['conn-ring-ref'])],
  ]);
  const [own, otherPort] = describe(folder, domain, port, pages);
  const [other] = describe(folder, 0, otherPort, new Map());
  return [JSON.stringify(nodes), `domain ${domain}: ${own}`, `domain 0: ${other}`].join('\n');
}

function describe(
  folder: string,
  domain: number,
  port: number,
  pages: ReadonlyMap<string, number>,
): [text: string, otherPort: number] {
  let segment: ShmSegment;
  try {
    segment = ShmSegment.open(join(folder, `domain-${domain}.pages`), domain);
  } catch (error) {
    return [String(error), 0];
  }
  const { words } = segment;
  const at = segment.portAt(Number.isInteger(port) && port > 0 && port < 256 ? port : 0);
  const [state = 0, otherPort = 0, epoch, pending] = words.subarray(at, at + 4);
  const lines = [
    `epoch ${segment.epoch}, ended ${segment.ended}; port ${port}: state 0x${state.toString(16)}, ` +
      `bound from ${otherPort} of epoch ${epoch}, pending ${pending}`,
  ];
  for (const [name, reference] of pages) {
    if (!(reference >= 0 && reference < segment.pages)) continue;
    const page = segment.memory.subarray(segment.pageAt(reference));
    const [requests, requestEvent, responses, responseEvent] = [0, 4, 8, 12].map((offset) =>
      page.readUInt32LE(offset),
    );
    lines.push(
      `${name}: requests ${requests} (event at ${requestEvent}), responses ${responses} (event at ${responseEvent}), ` +
        `journal ${page.subarray(4 * MAGIC_WORD, 64).toString('hex')}`,
    );
  }
  segment.close();
  return [lines.join('\n  '), otherPort];
}

/** Runs `body`; where it fails, or comes to no end, the message says what `dump` does. */
export async function withDump(
  body: () => Promise<void>,
  milliseconds: number,
  dump: () => Promise<string>,
): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end in ${milliseconds} ms`)), milliseconds);
  });
  try {
    await Promise.race([body(), late]);
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${await dump()}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}
