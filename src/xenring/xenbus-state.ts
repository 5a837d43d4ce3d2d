/**
 * How two halves of a driver find each other: each has a node `state` in the store, watches the
 * other's, and writes its own.
 *
 * Source: Xen `public/io/xenbus.h`, Linux drivers/xen/xenbus/ and drivers/usb/host/xen-hcd.c. The
 * way to a connection:
 *
 *     toolstack   both 1 (initialising)
 *     back end    2 (init-wait): it has said what it can do
 *     front end   3 (initialised) or, as xen-hcd, at once 4 (connected): rings and channel are there
 *     back end    4 (connected)
 *
 * And away from it: whoever begins writes 5 (closing), the front end answers 6 (closed), and so does
 * the back end. The toolstack takes a controller away by writing 5 into the *back end's* node and 0
 * into `online`, and waits for 6 there.
 *
 * The machine has no memory: what to do follows from the two states and `online` alone, so a back
 * end that is started again in the middle does the right thing. In particular a front end that is
 * connected to a back end that says so too, but has just been started, is attached again: xen-hcd
 * would not come back from 'closed'.
 *
 * What the tables cannot say: 'attach' is nothing if it is attached; a release is nothing if it is
 * not; a front end without a state, or without a directory, is gone.
 */

/** enum xenbus_state. 7 and 8 (reconfiguring) mean nothing to USB. */
export const XENBUS_STATE = {
  initialising: 1,
  'init-wait': 2,
  initialised: 3,
  connected: 4,
  closing: 5,
  closed: 6,
} as const;

export type XenbusState = keyof typeof XENBUS_STATE;

const NAMES = new Map(
  Object.entries(XENBUS_STATE).map(([name, number]) => [`${number}`, name as XenbusState]),
);

/** The state that a node's text stands for; undefined for none, and for what means nothing. */
export function xenbusStateOf(text: string | undefined): XenbusState | undefined {
  return text === undefined ? undefined : NAMES.get(text);
}

/**
 * - `announce`: say what this end can do, then write 2.
 * - `attach`: map the rings, bind the channel, write 4.
 * - `quiesce`: end the connection in an orderly way, write 5.
 * - `close`: end the connection, write 6.
 * - `release`: end the connection, write nothing.
 * - `wait`: nothing; the other end has to move.
 */
export type BackAction = 'announce' | 'attach' | 'quiesce' | 'close' | 'release' | 'wait';

/** By the back end's own state, then the front end's. */
export const BACK: Readonly<
  Record<XenbusState, Readonly<Record<XenbusState | 'gone', BackAction>>>
> = {
  initialising: {
    initialising: 'announce',
    'init-wait': 'announce',
    initialised: 'announce',
    connected: 'announce',
    closing: 'quiesce',
    closed: 'close',
    gone: 'release',
  },
  'init-wait': {
    initialising: 'wait',
    'init-wait': 'wait',
    initialised: 'attach',
    connected: 'attach',
    closing: 'quiesce',
    closed: 'close',
    gone: 'release',
  },
  // Not a state of ours; another back end may have left it.
  initialised: {
    initialising: 'announce',
    'init-wait': 'announce',
    initialised: 'attach',
    connected: 'attach',
    closing: 'quiesce',
    closed: 'close',
    gone: 'release',
  },
  connected: {
    initialising: 'announce', // it has begun anew
    'init-wait': 'wait',
    initialised: 'attach',
    connected: 'attach',
    closing: 'quiesce',
    closed: 'close',
    gone: 'release',
  },
  closing: {
    initialising: 'close',
    'init-wait': 'close',
    initialised: 'quiesce', // it has not seen it yet
    connected: 'quiesce',
    closing: 'quiesce',
    closed: 'close',
    gone: 'close',
  },
  closed: {
    initialising: 'announce',
    'init-wait': 'wait',
    initialised: 'wait',
    connected: 'wait',
    closing: 'wait',
    closed: 'wait',
    gone: 'release',
  },
};

/** What the back end does. `online`: the toolstack still wants the controller. */
export function backAction(
  own: XenbusState,
  front: XenbusState | undefined,
  online: boolean,
): BackAction {
  const action = BACK[own][front ?? 'gone'];
  return action === 'announce' && own === 'closed' && !online ? 'wait' : action;
}

/**
 * - `connect`: make rings and channel, write 3.
 * - `confirm`: the connection stands; write 4.
 * - `close`: end the connection, write 6.
 * - `restart`: end the connection, write 1.
 * - `wait`: nothing; the other end has to move.
 */
export type FrontAction = 'connect' | 'confirm' | 'close' | 'restart' | 'wait';

/** By the front end's own state, then the back end's. */
export const FRONT: Readonly<
  Record<XenbusState, Readonly<Record<XenbusState | 'gone', FrontAction>>>
> = {
  initialising: row('wait', 'connect', 'wait', 'wait', 'wait', 'wait', 'wait'),
  // Not a state of ours.
  'init-wait': row('restart', 'restart', 'restart', 'restart', 'restart', 'restart', 'restart'),
  initialised: row('wait', 'wait', 'wait', 'confirm', 'close', 'close', 'close'),
  connected: row('wait', 'restart', 'wait', 'wait', 'close', 'close', 'close'),
  closing: row('close', 'close', 'close', 'close', 'close', 'close', 'close'),
  // A back end that can serve again says 2; one that goes for good stays where it is.
  closed: row('restart', 'restart', 'wait', 'wait', 'wait', 'restart', 'wait'),
};

/** In the order of the states' numbers, then for a back end that is gone. */
function row(...actions: FrontAction[]): Readonly<Record<XenbusState | 'gone', FrontAction>> {
  const names = [...NAMES.values(), 'gone'];
  return Object.fromEntries(names.map((name, n) => [name, actions[n]])) as Record<
    XenbusState | 'gone',
    FrontAction
  >;
}

/** What the front end does. */
export function frontAction(own: XenbusState, back: XenbusState | undefined): FrontAction {
  return FRONT[own][back ?? 'gone'];
}
