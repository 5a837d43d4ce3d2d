/**
 * What a boot keyboard says of itself.
 *
 * Source: HID 1.11, 6.2.1 (HID descriptor) and appendix B.1 (boot keyboard). A host without a
 * report parser, such as firmware, relies on this layout unread; all others parse the descriptor:
 *
 *   input, 8 octets:  modifiers | reserved | six usages of keys that are down, 0 for none
 *   output, 1 octet:  LEDs in bits 4..0
 */

/** Interface class, subclass and protocol (HID 1.11, 4.1 to 4.3). */
export const HID = { class: 3, bootSubclass: 1, keyboardProtocol: 1 } as const;

/** bDescriptorType (HID 1.11, 7.1). */
export const HID_DESCRIPTOR_TYPE = { hid: 0x21, report: 0x22 } as const;

export const INPUT_OCTETS = 8;
export const OUTPUT_OCTETS = 1;

/** HID 1.11, appendix E.6. The item tags are those of 6.2.2. */
export const REPORT_DESCRIPTOR: Uint8Array = Uint8Array.of(
  ...[0x05, 0x01], // Usage Page (Generic Desktop)
  ...[0x09, 0x06], // Usage (Keyboard)
  ...[0xa1, 0x01], // Collection (Application)
  ...[0x05, 0x07], //   Usage Page (Keyboard)
  ...[0x19, 0xe0, 0x29, 0xe7], // Usages Left Control to Right GUI
  ...[0x15, 0x00, 0x25, 0x01], // Logical 0 to 1
  ...[0x75, 0x01, 0x95, 0x08], // 8 fields of 1 bit
  ...[0x81, 0x02], //   Input (Data, Variable): modifiers
  ...[0x75, 0x08, 0x95, 0x01], // 1 field of 8 bits
  ...[0x81, 0x01], //   Input (Constant): reserved
  ...[0x75, 0x01, 0x95, 0x05], // 5 fields of 1 bit
  ...[0x05, 0x08], //   Usage Page (LEDs)
  ...[0x19, 0x01, 0x29, 0x05], // Usages Num Lock to Kana
  ...[0x91, 0x02], //   Output (Data, Variable): LEDs
  ...[0x75, 0x03, 0x95, 0x01], // 1 field of 3 bits
  ...[0x91, 0x01], //   Output (Constant): padding
  ...[0x75, 0x08, 0x95, 0x06], // 6 fields of 8 bits
  ...[0x15, 0x00, 0x25, 0x65], // Logical 0 to 101
  ...[0x05, 0x07], //   Usage Page (Keyboard)
  ...[0x19, 0x00, 0x29, 0x65], // Usages 0 to 101
  ...[0x81, 0x00], //   Input (Data, Array): keys
  0xc0, //              End Collection
);

/** HID 1.11, 6.2.1: version 1.11, no country, one report descriptor. */
export const HID_DESCRIPTOR: Uint8Array = Uint8Array.of(
  9,
  HID_DESCRIPTOR_TYPE.hid,
  ...[0x11, 0x01], // bcdHID
  0, // bCountryCode
  1, // bNumDescriptors
  HID_DESCRIPTOR_TYPE.report,
  ...[REPORT_DESCRIPTOR.length & 0xff, REPORT_DESCRIPTOR.length >> 8], // wDescriptorLength
);
