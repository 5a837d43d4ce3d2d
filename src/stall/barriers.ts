/**
 * A line of transfers that wait, with a barrier wherever one was unlinked before its turn: what is
 * ahead of a barrier goes on, what is behind it waits for the fence, or for its time.
 */

/** Stands where a transfer was unlinked. */
export class Barrier {
  readonly until: number;
  constructor(until: number) {
    this.until = until;
  }
}

export interface Line<T> {
  readonly waiting: (T | Barrier)[];
  /** How many of `waiting` are barriers. */
  barriers: number;
}

/** A barrier beside another replaces it: no client can pile them up. */
export function putBarrier<T>(line: Line<T>, place: number, until: number): void {
  const { waiting } = line;
  const neighbour = [place - 1, place].find((at) => waiting[at] instanceof Barrier);
  if (neighbour === undefined) {
    waiting.splice(place, 0, new Barrier(until));
    line.barriers++;
    return;
  }
  waiting[neighbour] = new Barrier(until);
  if (neighbour === place || !(waiting[place] instanceof Barrier)) return;
  waiting.splice(place, 1); // the one that was unlinked stood between two
  line.barriers--;
}

/** Takes the barriers at the head away; returns until when they stood, or -Infinity. */
export function takeBarriers<T>(line: Line<T>): number {
  let until = Number.NEGATIVE_INFINITY;
  while (line.waiting[0] instanceof Barrier) {
    until = Math.max(until, (line.waiting.shift() as Barrier).until);
    line.barriers--;
  }
  return until;
}

/** Takes all barriers away; returns until when they stood, or -Infinity. */
export function dropBarriers<T>(line: Line<T>): number {
  let until = Number.NEGATIVE_INFINITY;
  if (line.barriers === 0) return until;
  const kept = line.waiting.filter((one) => {
    if (one instanceof Barrier) until = Math.max(until, one.until);
    return !(one instanceof Barrier);
  });
  line.waiting.splice(0, line.waiting.length, ...kept);
  line.barriers = 0;
  return until;
}

/** No barrier is to stand longer than `until`. */
export function lowerBarriers<T>({ waiting }: Line<T>, until: number): void {
  for (let at = 0; at < waiting.length; at++) {
    const one = waiting[at];
    if (one instanceof Barrier && one.until > until) waiting[at] = new Barrier(until);
  }
}
