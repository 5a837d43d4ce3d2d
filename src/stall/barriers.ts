/**
 * A line of transfers that wait, with a barrier wherever one was unlinked before its turn: what is
 * ahead of a barrier goes on, what is behind it waits for the fence, or for its time.
 */

import type { Fifo } from './fifo.ts';

/** Stands where a transfer was unlinked. */
export class Barrier {
  readonly until: number;
  constructor(until: number) {
    this.until = until;
  }
}

export interface Line<T> {
  readonly waiting: Fifo<T | Barrier>;
  /** How many of `waiting` are barriers. */
  barriers: number;
}

/** A barrier beside another replaces it: no client can pile them up. */
export function putBarrier<T>(line: Line<T>, place: number, until: number): void {
  const { waiting } = line;
  const barrier = new Barrier(until);
  const neighbour = [place - 1, place].find((at) => at >= 0 && waiting.at(at) instanceof Barrier);
  if (neighbour === undefined) {
    waiting.insert(place, barrier);
    line.barriers++;
    return;
  }
  waiting.set(neighbour, barrier);
  if (neighbour === place || !(waiting.at(place) instanceof Barrier)) return;
  waiting.remove(place); // the one that was unlinked stood between two
  line.barriers--;
}

/** Takes the barriers at the head away; returns until when they stood, or -Infinity. */
export function takeBarriers<T>(line: Line<T>): number {
  let until = Number.NEGATIVE_INFINITY;
  for (let head = line.waiting.first; head instanceof Barrier; head = line.waiting.first) {
    until = Math.max(until, head.until);
    line.waiting.shift();
    line.barriers--;
  }
  return until;
}

/** Takes all barriers away; returns until when they stood, or -Infinity. */
export function dropBarriers<T>(line: Line<T>): number {
  let until = Number.NEGATIVE_INFINITY;
  for (let at = line.waiting.length - 1; line.barriers > 0; at--) {
    const one = line.waiting.at(at);
    if (!(one instanceof Barrier)) continue;
    until = Math.max(until, one.until);
    line.waiting.remove(at);
    line.barriers--;
  }
  return until;
}

/** No barrier is to stand longer than `until`. */
export function lowerBarriers<T>({ waiting }: Line<T>, until: number): void {
  for (let at = 0; at < waiting.length; at++) {
    const one = waiting.at(at);
    if (one instanceof Barrier && one.until > until) waiting.set(at, new Barrier(until));
  }
}
