import {
  capturedBytesDefault,
  capturedBytesMax,
  capturedBytesMin,
  type PolicyCapture,
  policyDirections,
  type PolicyDirection,
} from '@sallyport/schema';
import type { Violations } from '../database/violations.ts';

/** How long payloads are kept, in days. */
export const retentionDaysDefault = 30;
export const retentionDaysMax = 366;

/** What a policy keeps of exchanges, and for how long. */
export interface StoredCapture extends PolicyCapture {
  readonly retentionDays: number;
}

/** As it is said; absent members have their default. */
export interface CaptureInput {
  readonly directions: readonly PolicyDirection[];
  readonly bytesMax?: number | null | undefined;
  readonly retentionDays?: number | null | undefined;
}

export function captureOf({ directions, bytesMax, retentionDays }: CaptureInput): StoredCapture {
  return {
    // Each once, in one order: equal captures are equal documents.
    directions: policyDirections.filter((direction) => directions.includes(direction)),
    bytesMax: bytesMax ?? capturedBytesDefault,
    retentionDays: retentionDays ?? retentionDaysDefault,
  };
}

export function checkCapture(
  found: Violations,
  path: string,
  { directions, bytesMax, retentionDays }: StoredCapture,
  about: readonly PolicyDirection[],
): void {
  if (directions.length === 0) found.add(`${path}.directions`, 'must name REQUEST, RESPONSE or both');
  for (const direction of directions) {
    if (about.length === 0 || about.includes(direction)) continue;
    found.add(`${path}.directions`, `names ${direction.toUpperCase()}, which the policy's match leaves out`);
  }
  found.between(`${path}.bytesMax`, bytesMax, capturedBytesMin, capturedBytesMax);
  found.between(`${path}.retentionDays`, retentionDays, 1, retentionDaysMax);
}
