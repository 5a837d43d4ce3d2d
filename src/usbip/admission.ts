/**
 * Who gets a place at the server: a pure machine, `step(state, event) -> actions`.
 *
 * A connection is a stranger until it has imported a device. Strangers have a limited number of places, in all and
 * for each address; importing clients are not counted, for there is one for each export at most. So no
 * stranger takes the place of a client, and no client that of a stranger.
 *
 * When places are full, somebody has to go: the oldest stranger of the address that has most of them, which
 * with a flood from one address is one of the flood. The newest is let in, for an honest
 * stranger needs its place for a round trip, and whoever only holds a place gets old. Refusing the newest
 * instead would let a flood that is there first keep everybody out (docs/decisions/0086).
 *
 * An address that connects too often is refused at once, before anything is made for its connection: a flood
 * of short connections costs what `ratePerSecond` of them cost, and an accept for each of the others.
 */
import { LOOPBACK_KEY } from './address-key.ts';

export interface AdmissionLimits {
  /** Connections without an import, in all. */
  readonly strangersMax: number;
  /** The same, of one address. */
  readonly strangersOfAddressMax: number;
  /** Connections of one address that are let in a second, and at once after a rest. */
  readonly ratePerSecond: number;
  readonly burstMax: number;
  /** Addresses whose rate is remembered while they have no connection. */
  readonly addressesKeptMax: number;
}

export const ADMISSION_LIMITS: AdmissionLimits = {
  strangersMax: 512,
  strangersOfAddressMax: 128,
  ratePerSecond: 200,
  burstMax: 400,
  addressesKeptMax: 1024,
};

export type AdmissionEvent<C> =
  /** A connection was accepted; `key` is its address (address-key.ts), `now` in milliseconds. */
  | { readonly type: 'accepted'; readonly who: C; readonly key: string; readonly now: number }
  /** It has a device now, or is closed: no stranger any more. */
  | { readonly type: 'left'; readonly who: C };

export type AdmissionAction<C> =
  | { readonly type: 'admit'; readonly who: C }
  /** Close it at once: its address connects too often. */
  | { readonly type: 'refuse'; readonly who: C }
  /** Close this stranger: its place is another's. No 'left' needs to follow. */
  | { readonly type: 'drop'; readonly who: C };

interface Address<C> {
  readonly key: string;
  /** Its strangers, the oldest first. */
  readonly strangers: Set<C>;
  /** Connections that would be let in at `now`: a token bucket. */
  tokens: number;
  now: number;
}

export interface Admission<C> {
  readonly limits: AdmissionLimits;
  /** By key, those seen last behind the others. */
  readonly addresses: Map<string, Address<C>>;
  /** Where each stranger belongs. */
  readonly strangers: Map<C, Address<C>>;
}

export function admission<C>(limits: AdmissionLimits = ADMISSION_LIMITS): Admission<C> {
  return { limits, addresses: new Map(), strangers: new Map() };
}

export function step<C>(state: Admission<C>, event: AdmissionEvent<C>): AdmissionAction<C>[] {
  switch (event.type) {
    case 'accepted':
      return accepted(state, event.who, event.key, event.now);
    case 'left':
      leave(state, event.who);
      return [];
  }
}

function accepted<C>(state: Admission<C>, who: C, key: string, now: number): AdmissionAction<C>[] {
  const { limits } = state;
  const address = addressOf(state, key, now);
  if (!takeToken(address, limits, now)) return [{ type: 'refuse', who }];
  const actions: AdmissionAction<C>[] = [];
  const drop = (from: Address<C>) => {
    const [oldest] = from.strangers;
    if (oldest === undefined) return;
    leave(state, oldest);
    actions.push({ type: 'drop', who: oldest });
  };
  if (address.strangers.size >= limits.strangersOfAddressMax) drop(address);
  else if (state.strangers.size >= limits.strangersMax) drop(fullest(state, address));
  address.strangers.add(who);
  state.strangers.set(who, address);
  actions.push({ type: 'admit', who });
  return actions;
}

function leave<C>(state: Admission<C>, who: C): void {
  state.strangers.get(who)?.strangers.delete(who);
  state.strangers.delete(who);
}

/** The address with most strangers, counting the one that comes; of several, the one seen least recently. */
function fullest<C>(state: Admission<C>, newcomer: Address<C>): Address<C> {
  let most: Address<C> | undefined;
  let count = 0;
  for (const address of state.addresses.values()) {
    const own = address.strangers.size + (address === newcomer ? 1 : 0);
    if (address.strangers.size === 0 || own <= count) continue;
    most = address;
    count = own;
  }
  return most ?? newcomer;
}

/** Processes of this machine share its processor anyway: only their places are limited. */
function takeToken<C>(address: Address<C>, limits: AdmissionLimits, now: number): boolean {
  if (address.key === LOOPBACK_KEY) return true;
  const seconds = Math.max(0, now - address.now) / 1000;
  address.tokens = Math.min(limits.burstMax, address.tokens + seconds * limits.ratePerSecond);
  address.now = now;
  if (address.tokens < 1) return false;
  address.tokens--;
  return true;
}

function addressOf<C>(state: Admission<C>, key: string, now: number): Address<C> {
  const { addresses, limits } = state;
  const known = addresses.get(key);
  if (known !== undefined) {
    addresses.delete(key); // to be put last
    addresses.set(key, known);
    return known;
  }
  forget(state);
  const address = { key, strangers: new Set<C>(), tokens: limits.burstMax, now };
  addresses.set(key, address);
  return address;
}

/**
 * Makes room for one address more. What has strangers stays, and those are limited; of the others the one
 * seen least recently goes. It is near the front: each address in front of it has a stranger.
 */
function forget<C>({ addresses, limits }: Admission<C>): void {
  if (addresses.size < limits.addressesKeptMax) return;
  for (const [key, { strangers }] of addresses) {
    if (strangers.size > 0) continue;
    addresses.delete(key);
    return;
  }
}
