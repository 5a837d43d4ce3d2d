/**
 * What the audio function says of itself.
 *
 * Source: USB Audio 1.0, 4.3 (AudioControl), 4.5 (AudioStreaming), 4.6 (endpoints), and Audio Data
 * Formats 1.0, 2.2.5 (type I format). Two chains of entities, numbered below:
 *
 *   host == isochronous OUT ==> 1 USB stream --> 2 feature unit --> 3 speaker
 *   host <== isochronous IN === 6 USB stream <-- 5 feature unit <-- 4 microphone
 */
import { CHANNELS, SAMPLE_OCTETS } from './format.ts';

/** Interface class and subclasses (USB Audio 1.0, A.1 and A.2). */
export const AUDIO = { class: 1, control: 1, streaming: 2 } as const;

export const INTERFACE = { control: 0, speaker: 1, microphone: 2 } as const;

export const ENTITY = {
  speakerStream: 1,
  speakerFeatures: 2,
  speaker: 3,
  microphone: 4,
  microphoneFeatures: 5,
  microphoneStream: 6,
} as const;

/** bDescriptorType (USB Audio 1.0, A.4). */
const CS_INTERFACE = 0x24;
const CS_ENDPOINT = 0x25;

/** bDescriptorSubtype of the AudioControl interface (A.5), AudioStreaming (A.6), endpoint (A.8). */
const CONTROL = { header: 1, inputTerminal: 2, outputTerminal: 3, featureUnit: 6 } as const;
const STREAMING = { general: 1, formatType: 2 } as const;
const ENDPOINT_GENERAL = 1;

/** wTerminalType (USB Audio Terminal Types 1.0, 2.1 to 2.3). */
const TERMINAL = { usbStream: 0x0101, microphone: 0x0201, speaker: 0x0301 } as const;

/** wChannelConfig: left front and right front (USB Audio 1.0, 3.7.2.3). */
const LEFT_AND_RIGHT = 0x0003;

/** bmaControls (USB Audio 1.0, table 4-7). */
const MUTE_AND_VOLUME = 0x01 | 0x02;

const PCM = 0x0001; // wFormatTag (Audio Data Formats 1.0, A.1.1)
const FORMAT_TYPE_I = 1;

/** The class-specific descriptors of the AudioControl interface; the header counts them all. */
export function controlDescriptors(): Uint8Array[] {
  const entities = [
    inputTerminal(ENTITY.speakerStream, TERMINAL.usbStream),
    featureUnit(ENTITY.speakerFeatures, ENTITY.speakerStream),
    outputTerminal(ENTITY.speaker, TERMINAL.speaker, ENTITY.speakerFeatures),
    inputTerminal(ENTITY.microphone, TERMINAL.microphone),
    featureUnit(ENTITY.microphoneFeatures, ENTITY.microphone),
    outputTerminal(ENTITY.microphoneStream, TERMINAL.usbStream, ENTITY.microphoneFeatures),
  ];
  const streams = [INTERFACE.speaker, INTERFACE.microphone];
  const headerOctets = 8 + streams.length;
  const total = entities.reduce((sum, entity) => sum + entity.length, headerOctets);
  const header = Uint8Array.of(
    headerOctets,
    CS_INTERFACE,
    CONTROL.header,
    ...uint16(0x0100), // bcdADC
    ...uint16(total),
    streams.length,
    ...streams,
  );
  return [header, ...entities];
}

/** The class-specific descriptors of an AudioStreaming interface, alternate setting 1. */
export function streamingDescriptors(terminal: number, rateHz: number): Uint8Array[] {
  return [
    Uint8Array.of(
      7,
      CS_INTERFACE,
      STREAMING.general,
      terminal,
      1, // bDelay, frames
      ...uint16(PCM),
    ),
    Uint8Array.of(
      11,
      CS_INTERFACE,
      STREAMING.formatType,
      FORMAT_TYPE_I,
      CHANNELS,
      SAMPLE_OCTETS, // bSubframeSize
      SAMPLE_OCTETS * 8, // bBitResolution
      1, // bSamFreqType: one rate
      ...uint24(rateHz),
    ),
  ];
}

/** The class-specific descriptor of an isochronous endpoint (USB Audio 1.0, 4.6.1.2). */
export const STREAM_ENDPOINT: Uint8Array = Uint8Array.of(
  7,
  CS_ENDPOINT,
  ENDPOINT_GENERAL,
  0x01, // bmAttributes: has the sampling frequency control
  1, // bLockDelayUnits: milliseconds
  ...uint16(1), // wLockDelay
);

/** USB Audio 1.0, 4.3.2.1. */
function inputTerminal(id: number, type: number): Uint8Array {
  return Uint8Array.of(
    12,
    CS_INTERFACE,
    CONTROL.inputTerminal,
    id,
    ...uint16(type),
    0, // bAssocTerminal
    CHANNELS,
    ...uint16(LEFT_AND_RIGHT),
    0, // iChannelNames
    0, // iTerminal
  );
}

/** USB Audio 1.0, 4.3.2.2. */
function outputTerminal(id: number, type: number, source: number): Uint8Array {
  return Uint8Array.of(9, CS_INTERFACE, CONTROL.outputTerminal, id, ...uint16(type), 0, source, 0);
}

/** USB Audio 1.0, 4.3.2.5: controls on the master channel, none on left and right. */
function featureUnit(id: number, source: number): Uint8Array {
  return Uint8Array.of(
    10,
    CS_INTERFACE,
    CONTROL.featureUnit,
    id,
    source,
    1, // bControlSize
    ...[MUTE_AND_VOLUME, 0, 0],
    0, // iFeature
  );
}

function uint16(value: number): [number, number] {
  return [value & 0xff, value >> 8];
}

export function uint24(value: number): [number, number, number] {
  return [value & 0xff, (value >> 8) & 0xff, value >> 16];
}
