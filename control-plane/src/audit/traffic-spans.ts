/** A range in pieces, each read from where it costs least. */

export type TrafficUnit = 'minute' | 'hour' | 'day';

/** Whole units from `fromMs` up to `toMs`, in milliseconds since the epoch. */
export interface TrafficSpan {
  readonly unit: TrafficUnit;
  readonly fromMs: number;
  readonly toMs: number;
}

const lengths: Readonly<Record<TrafficUnit, number>> = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };

/**
 * The range as whole minutes, hours and days (UTC), in order and without a gap; minutes count from their start.
 * @param rolledFromMs from when on hours and days are summed; -Infinity for always
 */
export function trafficSpans(fromMs: number, toMs: number, rolledFromMs: number): TrafficSpan[] {
  const end = Math.ceil(toMs / lengths.minute) * lengths.minute;
  const spans: TrafficSpan[] = [];
  const fits = (unit: TrafficUnit, at: number): boolean =>
    unit === 'minute' || (at % lengths[unit] === 0 && at + lengths[unit] <= end && at >= rolledFromMs);
  for (let at = Math.floor(fromMs / lengths.minute) * lengths.minute; at < end; ) {
    const unit = (['day', 'hour', 'minute'] as const).find((candidate) => fits(candidate, at)) ?? 'minute';
    const next = at + lengths[unit];
    const last = spans.at(-1);
    if (last?.unit === unit) spans[spans.length - 1] = { ...last, toMs: next };
    else spans.push({ unit, fromMs: at, toMs: next });
    at = next;
  }
  return spans;
}
