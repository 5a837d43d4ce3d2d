/**
 * A sound card: a stereo speaker that is a WAV file, a stereo microphone that is a tone or one.
 *
 * Source: USB Audio 1.0. A stream begins when the host chooses alternate setting 1 of its interface
 * and ends with setting 0. The speaker's endpoint is adaptive (it takes what comes), the
 * microphone's synchronous: its clock is the bus's, so the packet sizes follow from the rate alone.
 * Both endpoints are paced, for nothing else holds a player or a recorder to real time.
 */
import type { SetupPacket } from '../../../urb.ts';
import {
  type Ack,
  ack,
  type ControlRow,
  type DeviceDefinition,
  data,
  defineDevice,
  type InterfaceDefinition,
  type Stall,
  stall,
} from '../definition.ts';
import {
  AUDIO,
  controlDescriptors,
  ENTITY,
  INTERFACE,
  STREAM_ENDPOINT,
  streamingDescriptors,
  uint24,
} from './descriptors.ts';
import { AUDIO_REQUEST, FeatureUnit } from './feature-unit.ts';
import { FRAME_OCTETS, framesInPacket, packetOctetsMax } from './format.ts';
import type { Recording } from './recorder.ts';
import type { Source } from './source.ts';

export const ENDPOINT = { speaker: 0x01, microphone: 0x81 } as const;

/** bAlternateSetting of a stream that flows. */
export const STREAMING = 1;

/** High octet of wValue for an endpoint (USB Audio 1.0, A.10.5). */
const SAMPLING_FREQUENCY = 0x01;

export interface AudioOptions {
  readonly rateHz: number;
  readonly source: Source;
  /** Where the speaker's samples go; without it, they are only counted. */
  readonly recording?: Recording;
}

export class AudioState {
  readonly rateHz: number;
  readonly speaker = new FeatureUnit();
  readonly microphone = new FeatureUnit();
  /** Octets that the speaker has been given. */
  playedOctets = 0;
  readonly #source: Source;
  readonly #recording: Recording | undefined;
  /** Packets of the microphone's stream so far. */
  #packet = 0;

  constructor(options: AudioOptions) {
    this.rateHz = options.rateHz;
    this.#source = options.source;
    this.#recording = options.recording;
  }

  play(octets: Buffer): Ack {
    this.playedOctets += octets.length;
    this.#recording?.recorder.record(octets);
    return ack;
  }

  hear(octetsMax: number): Uint8Array {
    const frames = framesInPacket(this.rateHz, this.#packet++);
    return data(this.#source.read(Math.min(frames, Math.floor(octetsMax / FRAME_OCTETS))));
  }

  /** The host has chosen an alternate setting. */
  select(interfaceNumber: number): void {
    if (interfaceNumber === INTERFACE.microphone) {
      this.#packet = 0;
      this.#source.rewind();
    }
    if (interfaceNumber === INTERFACE.speaker) this.flush();
  }

  /** A stream may have ended: its last octets need not wait for more. Never rejects. */
  async flush(): Promise<void> {
    await this.#recording?.recorder.flush();
  }

  features(entity: number): FeatureUnit | undefined {
    if (entity === ENTITY.speakerFeatures) return this.speaker;
    if (entity === ENTITY.microphoneFeatures) return this.microphone;
    return undefined;
  }

  async dispose(): Promise<void> {
    await this.#recording?.close();
  }
}

export function defineAudio(options: AudioOptions): DeviceDefinition<AudioState> {
  const { rateHz } = options;
  return defineDevice<AudioState>({
    vendorId: 0x1209,
    productId: 0x0006,
    speed: 'full',
    strings: { manufacturer: 'urbgate', product: 'Sound card' },
    state: () => new AudioState(options),
    configurations: [
      {
        interfaces: [
          {
            class: AUDIO.class,
            subclass: AUDIO.control,
            descriptors: controlDescriptors(),
            endpoints: [],
          },
          ...stream(INTERFACE.speaker, ENTITY.speakerStream, rateHz, {
            ...endpointOf(rateHz),
            address: ENDPOINT.speaker,
            synchronisation: 'adaptive',
            onPacketOut: (state, octets) => state.play(octets),
          }),
          ...stream(INTERFACE.microphone, ENTITY.microphoneStream, rateHz, {
            ...endpointOf(rateHz),
            address: ENDPOINT.microphone,
            synchronisation: 'synchronous',
            onPacketIn: (state, octetsMax) => state.hear(octetsMax),
          }),
        ],
      },
    ],
    onControl: CONTROL_ROWS,
    onInterface: (state, interfaceNumber) => state.select(interfaceNumber),
    onReset: (state) => void state.flush(),
    onRelease: (state) => state.flush(),
    onDispose: (state) => state.dispose(),
  });
}

type Interface = InterfaceDefinition<AudioState>;
type Endpoint = Interface['endpoints'][number];

/** The two settings of an AudioStreaming interface: no bandwidth, and the stream. */
function stream(number: number, terminal: number, rateHz: number, endpoint: Endpoint): Interface[] {
  const common = { number, class: AUDIO.class, subclass: AUDIO.streaming };
  return [
    { ...common, alternate: 0, endpoints: [] },
    {
      ...common,
      alternate: STREAMING,
      descriptors: streamingDescriptors(terminal, rateHz),
      endpoints: [endpoint],
    },
  ];
}

function endpointOf(rateHz: number) {
  return {
    type: 'isochronous',
    maxPacketOctets: packetOctetsMax(rateHz),
    interval: 1,
    paced: true,
    audio: true,
    descriptors: [STREAM_ENDPOINT],
  } as const;
}

/** USB Audio 1.0, 5.2.1: requests name a unit and its interface, or an endpoint, in wIndex. */
const CONTROL_ROWS: readonly ControlRow<AudioState>[] = [
  {
    type: 'class',
    direction: 'out',
    recipient: 'interface',
    request: AUDIO_REQUEST.setCurrent,
    answer: (state, setup, octets) =>
      unitOf(state, setup)?.setCurrent(setup.value, octets) ?? stall,
  },
  ...[
    AUDIO_REQUEST.getCurrent,
    AUDIO_REQUEST.getMinimum,
    AUDIO_REQUEST.getMaximum,
    AUDIO_REQUEST.getResolution,
  ].map(
    (request): ControlRow<AudioState> => ({
      type: 'class',
      direction: 'in',
      recipient: 'interface',
      request,
      answer: (state, setup) => unitOf(state, setup)?.get(request, setup.value) ?? stall,
    }),
  ),
  {
    type: 'class',
    direction: 'out',
    recipient: 'endpoint',
    request: AUDIO_REQUEST.setCurrent,
    answer: setRate,
  },
  {
    type: 'class',
    direction: 'in',
    recipient: 'endpoint',
    request: AUDIO_REQUEST.getCurrent,
    answer: (state, setup) =>
      asksForRate(setup) ? data(Uint8Array.from(uint24(state.rateHz))) : stall,
  },
];

function unitOf(state: AudioState, setup: SetupPacket): FeatureUnit | undefined {
  if ((setup.index & 0xff) !== INTERFACE.control) return undefined;
  return state.features(setup.index >> 8);
}

/** USB Audio 1.0, 5.2.3.2.3.1: the sampling frequency control; the endpoints have one rate. */
function setRate(state: AudioState, setup: SetupPacket, octets: Buffer): Ack | Stall {
  if (!asksForRate(setup) || octets.length !== 3) return stall;
  return octets.readUIntLE(0, 3) === state.rateHz ? ack : stall;
}

function asksForRate(setup: SetupPacket): boolean {
  const endpoint = setup.index & 0xff;
  const known = endpoint === ENDPOINT.speaker || endpoint === ENDPOINT.microphone;
  return known && setup.value >> 8 === SAMPLING_FREQUENCY;
}
