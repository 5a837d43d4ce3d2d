/**
 * A line of transfers that wait, with a barrier wherever one was unlinked before its turn: what is
 * ahead of a barrier goes on, what is behind it waits for the fence, or for its time.
 */

import type { Fifo } from './fifo.ts';

/** Stands where a transfer was unlinked. */
export class Barrier {
  readonly until: number;
  /** Its number among those that wait. */
  readonly order: number;
  constructor(until: number, order: number) {
    this.until = until;
    this.order = order;
  }
}

export interface Line<T> {
  readonly waiting: Fifo<T | Barrier>;
  /** How many of `waiting` are barriers. */
  barriers: number;
  /** Those of them that `lowerBarriers` has not seen, and perhaps others. */
  readonly fresh: Set<Barrier>;
  /** All others stand until then at most. */
  lowered: number;
}

/**
 * In the place of a transfer. A barrier beside another replaces it: no client can pile them up.
 */
export function putBarrier<T>(line: Line<T>, place: number, until: number): void {
  const { waiting } = line;
  const before = waiting.before(place);
  const behind = waiting.behind(place);
  const isBefore = before >= waiting.start && waiting.at(before) instanceof Barrier;
  const isBehind = behind < waiting.end && waiting.at(behind) instanceof Barrier;
  if (isBefore && isBehind) removeBarrier(line, behind); // it stood between two
  if (isBefore || isBehind) {
    waiting.remove(place);
    renewBarrier(line, isBefore ? before : behind, until);
    return;
  }
  const barrier = new Barrier(until, waiting.orderAt(place));
  waiting.set(place, barrier);
  addBarrier(line, barrier);
}

/** Behind all that wait; `order` is the number of what went before, if none waits. */
export function putBarrierLast<T>(line: Line<T>, order: number, until: number): void {
  const { waiting } = line;
  if (waiting.last instanceof Barrier) {
    renewBarrier(line, waiting.end - 1, until);
    return;
  }
  const last = waiting.length === 0 ? order : waiting.orderAt(waiting.end - 1);
  const barrier = new Barrier(until, last + 0.5);
  waiting.push(barrier);
  addBarrier(line, barrier);
}

/** Before all that wait; `order` is the number of what went before them. */
export function putBarrierFirst<T>(line: Line<T>, order: number, until: number): void {
  const { waiting } = line;
  if (waiting.first instanceof Barrier) {
    renewBarrier(line, waiting.start, until);
    return;
  }
  const barrier = new Barrier(until, order + 0.5);
  waiting.insert(barrier);
  addBarrier(line, barrier);
}

/** Takes the barriers at the head away; returns until when they stood, or -Infinity. */
export function takeBarriers<T>(line: Line<T>): number {
  let until = Number.NEGATIVE_INFINITY;
  for (let head = line.waiting.first; head instanceof Barrier; head = line.waiting.first) {
    until = Math.max(until, head.until);
    removeBarrier(line, line.waiting.start);
  }
  return until;
}

/** Takes all barriers away; returns until when they stood, or -Infinity. */
export function dropBarriers<T>(line: Line<T>): number {
  const { waiting } = line;
  let until = Number.NEGATIVE_INFINITY;
  let at = waiting.end - 1;
  while (line.barriers > 0) {
    const before = waiting.before(at);
    const one = waiting.at(at);
    if (one instanceof Barrier) {
      until = Math.max(until, one.until);
      removeBarrier(line, at);
    }
    at = before;
  }
  return until;
}

/** Whether no transfer stands at `place` or behind: at most a barrier, for two are never side by side. */
export function isEnd<T>({ waiting }: Line<T>, place: number): boolean {
  const left = waiting.end - place;
  return left <= 0 || (left === 1 && waiting.last instanceof Barrier);
}

/** A barrier behind which nothing stands yet is to stand until `until`. */
export function raiseLastBarrier<T>(line: Line<T>, until: number): void {
  if (line.waiting.last instanceof Barrier) renewBarrier(line, line.waiting.end - 1, until);
}

/**
 * No barrier is to stand longer than `until`. As long as that rises from call to call, only those that came
 * since the last one are looked at.
 */
export function lowerBarriers<T>(line: Line<T>, until: number): void {
  const { waiting, fresh } = line;
  for (const one of until < line.lowered ? waiting : fresh) {
    if (!(one instanceof Barrier) || one.until <= until) continue;
    const place = waiting.find(one);
    if (place !== undefined) waiting.set(place, new Barrier(until, one.order));
  }
  fresh.clear();
  line.lowered = until;
}

function addBarrier<T>(line: Line<T>, barrier: Barrier): void {
  line.barriers++;
  line.fresh.add(barrier);
}

function removeBarrier<T>(line: Line<T>, place: number): void {
  line.fresh.delete(line.waiting.at(place) as Barrier);
  line.waiting.remove(place);
  line.barriers--;
}

/** The one at a place stands until another time now. */
function renewBarrier<T>(line: Line<T>, place: number, until: number): void {
  const { waiting, fresh } = line;
  const barrier = new Barrier(until, waiting.orderAt(place));
  fresh.delete(waiting.at(place) as Barrier);
  fresh.add(barrier);
  waiting.set(place, barrier);
}
