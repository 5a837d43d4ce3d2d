/** Visits every state of a small world, breadth first: a broken invariant has its shortest story. */
import {
  cloneWorld,
  describeStep,
  keyOf,
  Model,
  type Scope,
  type Step,
  Violation,
  type World,
} from './world.ts';

export interface Result {
  readonly states: number;
  readonly transitions: number;
  /** States in which nothing can happen any more; all was given back there. */
  readonly ends: number;
  /** The longest of the shortest ways to a state. */
  readonly depth: number;
}

/** Numbers in memory of their own, which grows. */
class Numbers {
  #numbers = new Int32Array(1 << 12);
  length = 0;

  push(number: number): void {
    if (this.length === this.#numbers.length) {
      const larger = new Int32Array(2 * this.length);
      larger.set(this.#numbers);
      this.#numbers = larger;
    }
    this.#numbers[this.length++] = number;
  }

  at(place: number): number {
    return this.#numbers[place] as number;
  }
}

/**
 * @throws Violation with the steps that led to it.
 */
export function explore(scope: Scope, statesMax = Number.POSITIVE_INFINITY): Result {
  const model = new Model(scope);
  const seen = new Map<string, number>();
  const parents = new Numbers();
  const stepsTo = new Numbers();
  // Edge n leads from sources[n] to targets[n]; sources rise.
  const sources = new Numbers();
  const targets = new Numbers();
  let ends = 0;
  let depth = 0;

  const visit = (world: World, parent: number, step: Step): number | undefined => {
    const key = keyOf(world);
    const known = seen.get(key);
    const state = known ?? seen.size;
    if (parent >= 0 && state !== parent) {
      sources.push(parent);
      targets.push(state);
    }
    if (known !== undefined) return undefined;
    seen.set(key, state);
    parents.push(parent);
    stepsTo.push(step);
    return state;
  };
  const story = (state: number, last: Step | undefined): string => {
    const steps: string[] = last === undefined ? [] : [describeStep(last)];
    for (let at = state; parents.at(at) >= 0; at = parents.at(at)) {
      steps.unshift(describeStep(stepsTo.at(at)));
    }
    return steps.join('\n  ');
  };
  const guard = (state: number, step: Step | undefined, act: () => void): void => {
    try {
      act();
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      throw new Violation(`${text}\n  ${story(state, step)}`);
    }
  };

  const start = model.start();
  visit(start, -1, 0);
  let level: [number, World][] = [[0, start]];
  while (level.length > 0) {
    const next: [number, World][] = [];
    for (const [state, world] of level) {
      const steps = model.steps(world);
      for (const step of steps) {
        const successor = cloneWorld(world);
        guard(state, step, () => model.take(successor, step));
        const fresh = visit(successor, state, step);
        if (fresh !== undefined) next.push([fresh, successor]);
      }
      if (steps.length === 0) {
        ends++;
        guard(state, undefined, () => model.checkEnd(world));
      }
    }
    if (seen.size > statesMax) throw new Error(`More than ${statesMax} states`);
    if (next.length > 0) depth++;
    level = next;
  }
  const stuck = stateOnCycle(seen.size, sources, targets);
  guard(stuck ?? 0, undefined, () => {
    if (stuck !== undefined) throw new Error('I6: things go round in circles');
  });
  return { states: seen.size, transitions: targets.length, ends, depth };
}

/** A state from which a run could go on for ever, if there is one (Kahn's algorithm). */
function stateOnCycle(states: number, sources: Numbers, targets: Numbers): number | undefined {
  const first = new Int32Array(states + 1);
  const incoming = new Int32Array(states);
  for (let edge = 0; edge < targets.length; edge++) {
    first[sources.at(edge) + 1] = edge + 1;
    incoming[targets.at(edge)] = (incoming[targets.at(edge)] ?? 0) + 1;
  }
  for (let state = 1; state <= states; state++) {
    first[state] = Math.max(first[state] as number, first[state - 1] as number);
  }
  const ready = [0];
  let left = states;
  for (let state = ready.pop(); state !== undefined; state = ready.pop()) {
    left--;
    for (let edge = first[state] as number; edge < (first[state + 1] as number); edge++) {
      const target = targets.at(edge);
      const count = (incoming[target] as number) - 1;
      incoming[target] = count;
      if (count === 0) ready.push(target);
    }
  }
  return left === 0 ? undefined : incoming.findIndex((count) => count > 0);
}
