/**
 * What a CDC-ACM function says of itself.
 *
 * Source: CDC 1.2, 5.2.3 (header, union) and PSTN 1.2, 5.3 (call management, abstract control
 * management). The association descriptor (USB 3.2, 9.6.4) lets Windows see one function where
 * there are two interfaces.
 */
import { DESCRIPTOR } from '../../../descriptors.ts';

/** Device class of a device with an interface association descriptor (USB-IF class codes). */
export const MISCELLANEOUS = { class: 0xef, subclass: 0x02, protocol: 0x01 } as const;

/**
 * Interface classes (CDC 1.2, 4.2 and 4.5), and the abstract control model (PSTN 1.2, table 2).
 * Protocol 0, not 1: this modem speaks no AT commands, and ModemManager should not try them.
 */
export const CDC = { controlClass: 0x02, acmSubclass: 0x02, dataClass: 0x0a } as const;

export const CONTROL_INTERFACE = 0;
export const DATA_INTERFACE = 1;

/** bDescriptorType CS_INTERFACE (CDC 1.2, table 12). */
const CS_INTERFACE = 0x24;

/** bDescriptorSubtype (CDC 1.2, table 13). */
const SUBTYPE = { header: 0x00, callManagement: 0x01, acm: 0x02, union: 0x06 } as const;

/** bmCapabilities (PSTN 1.2, 5.3.2): the requests that the device takes. */
const ACM_CAPABILITIES = {
  lineCodingAndState: 0x02, // SET_LINE_CODING ... and the notification SERIAL_STATE
  sendBreak: 0x04,
} as const;

export const ASSOCIATION: Uint8Array = Uint8Array.of(
  8,
  DESCRIPTOR.interfaceAssociation,
  CONTROL_INTERFACE, // bFirstInterface
  2, // bInterfaceCount
  CDC.controlClass,
  CDC.acmSubclass,
  0, // bFunctionProtocol
  0, // iFunction
);

export const FUNCTIONAL_DESCRIPTORS: readonly Uint8Array[] = [
  Uint8Array.of(5, CS_INTERFACE, SUBTYPE.header, 0x20, 0x01), // bcdCDC 1.20
  // No call management by the device; it would go over the data interface.
  Uint8Array.of(5, CS_INTERFACE, SUBTYPE.callManagement, 0, DATA_INTERFACE),
  Uint8Array.of(
    4,
    CS_INTERFACE,
    SUBTYPE.acm,
    ACM_CAPABILITIES.lineCodingAndState | ACM_CAPABILITIES.sendBreak,
  ),
  Uint8Array.of(5, CS_INTERFACE, SUBTYPE.union, CONTROL_INTERFACE, DATA_INTERFACE),
];
