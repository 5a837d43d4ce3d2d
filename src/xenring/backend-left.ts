/** The front end's end of a goodbye. */
import type { Clock } from '../core/clock.ts';
import type { Store } from './platform.ts';
import { xenbusStateOf } from './xenbus-state.ts';

/**
 * Resolves when the back end whose state is at `path` has let go, or after that time: it may have
 * been killed.
 */
export async function backendLeft(
  store: Store,
  path: string,
  milliseconds: number,
  clock: Clock,
): Promise<void> {
  let end = () => {};
  const left = new Promise<void>((resolve) => {
    end = resolve;
  });
  const watch = await store.watch(path, () => {
    void store.read(path).then((text) => {
      const state = xenbusStateOf(text);
      if (state !== 'connected' && state !== 'initialised') end();
    }, end);
  });
  const cancel = clock.after(milliseconds, end);
  await left;
  cancel();
  await watch.end();
}
