/**
 * Mute and volume of one feature unit, master channel.
 *
 * Source: USB Audio 1.0, 5.2.2.4. The controls remember what the host sets and do nothing to the
 * samples: a recording of a muted speaker has every octet that the host sent, and what the
 * microphone supplies can be compared with its source.
 */
import { type Ack, ack, data, type Stall, stall } from '../definition.ts';

/** bRequest (USB Audio 1.0, A.9). */
export const AUDIO_REQUEST = {
  setCurrent: 0x01,
  getCurrent: 0x81,
  getMinimum: 0x82,
  getMaximum: 0x83,
  getResolution: 0x84,
} as const;

/** High octet of wValue (USB Audio 1.0, A.10.2). */
export const FEATURE = { mute: 0x01, volume: 0x02 } as const;

/** In units of 1/256 dB (USB Audio 1.0, 5.2.2.4.3.2): from -60 dB to 0 dB in steps of 1 dB. */
export const VOLUME = { minimum: -60 * 256, maximum: 0, resolution: 256 } as const;

/** Not a number but the code for silence, below any minimum. */
const VOLUME_SILENCE = -32_768;

const MASTER_CHANNEL = 0;

export class FeatureUnit {
  muted = false;
  /** In units of 1/256 dB. */
  volume: number = VOLUME.maximum;

  /** Answers a GET request; `value` is wValue. */
  get(request: number, value: number): Uint8Array | Stall {
    if ((value & 0xff) !== MASTER_CHANNEL) return stall;
    switch (value >> 8) {
      case FEATURE.mute:
        // A switch has a state but no range.
        return request === AUDIO_REQUEST.getCurrent ? data(Uint8Array.of(+this.muted)) : stall;
      case FEATURE.volume: {
        const volume = this.#volumeOf(request);
        return volume === undefined
          ? stall
          : data(Uint8Array.of(volume & 0xff, (volume >> 8) & 0xff));
      }
      default:
        return stall;
    }
  }

  /** Carries out SET_CUR; `value` is wValue. */
  setCurrent(value: number, octets: Buffer): Ack | Stall {
    if ((value & 0xff) !== MASTER_CHANNEL) return stall;
    if (value >> 8 === FEATURE.mute && octets.length === 1) {
      this.muted = octets.readUInt8(0) !== 0;
      return ack;
    }
    if (value >> 8 === FEATURE.volume && octets.length === 2) {
      const volume = octets.readInt16LE(0);
      const inRange = Math.max(VOLUME.minimum, Math.min(VOLUME.maximum, volume));
      this.volume = volume === VOLUME_SILENCE ? volume : inRange;
      return ack;
    }
    return stall;
  }

  #volumeOf(request: number): number | undefined {
    switch (request) {
      case AUDIO_REQUEST.getCurrent:
        return this.volume;
      case AUDIO_REQUEST.getMinimum:
        return VOLUME.minimum;
      case AUDIO_REQUEST.getMaximum:
        return VOLUME.maximum;
      case AUDIO_REQUEST.getResolution:
        return VOLUME.resolution;
      default:
        return undefined;
    }
  }
}
