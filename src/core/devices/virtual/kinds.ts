/** The kinds of virtual devices that an export SPEC can name (`virtual:NAME`). */
import { audioKind } from './audio/kind.ts';
import { disk } from './disk/kind.ts';
import { keyboardKind } from './keyboard/kind.ts';
import type { VirtualKind } from './kind.ts';
import { serialKind } from './serial/kind.ts';
import { sourceSink } from './source-sink/kind.ts';

export const VIRTUAL_KINDS: readonly VirtualKind[] = [
  disk,
  keyboardKind,
  serialKind,
  audioKind,
  sourceSink,
];
