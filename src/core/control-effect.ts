/**
 * Standard requests that change endpoints, recognised where they pass by.
 *
 * The kernel's stub does the same (drivers/usb/usbip/stub_rx.c, tweak_special_requests), because
 * the host's own state must follow. Source: USB 2.0, 9.4.
 */
import { ENDPOINT_HALT, REQUEST } from './descriptors.ts';
import type { SetupPacket } from './urb.ts';

export type ControlEffect =
  | { readonly type: 'none' }
  | { readonly type: 'clear-halt'; readonly address: number }
  | { readonly type: 'set-interface'; readonly interfaceNumber: number; readonly alternate: number }
  | { readonly type: 'set-configuration'; readonly value: number }
  | { readonly type: 'reset' };

/** bmRequestType: host to device, standard; or class request to a hub's port. */
const TO_DEVICE = 0x00;
const TO_INTERFACE = 0x01;
const TO_ENDPOINT = 0x02;
const TO_PORT = 0x23;
/** Feature selector PORT_RESET (USB 2.0, table 11-17). */
const PORT_RESET = 4;

const NONE: ControlEffect = { type: 'none' };

export function controlEffect(setup: SetupPacket): ControlEffect {
  const { requestType, request, value, index } = setup;
  if (requestType === TO_ENDPOINT && request === REQUEST.clearFeature && value === ENDPOINT_HALT) {
    return { type: 'clear-halt', address: index & 0x8f };
  }
  if (requestType === TO_INTERFACE && request === REQUEST.setInterface) {
    return { type: 'set-interface', interfaceNumber: index & 0xff, alternate: value & 0xff };
  }
  if (requestType === TO_DEVICE && request === REQUEST.setConfiguration) {
    return { type: 'set-configuration', value: value & 0xff };
  }
  if (requestType === TO_PORT && request === REQUEST.setFeature && value === PORT_RESET) {
    return { type: 'reset' };
  }
  return NONE;
}
