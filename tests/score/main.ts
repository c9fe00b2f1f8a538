import { systemClock } from '@sallyport/schema/platform';
import { cost, scores, valueScores } from './score.ts';

const percent = (share: number): string => `${(share * 100).toFixed(1)} %`.padStart(8);

console.log(`${'set'.padEnd(34)}${'samples'.padStart(8)}${'flagged'.padStart(10)}${'severe'.padStart(10)}`);
for (const { set, samples, flagged, severe } of [...scores(), ...valueScores()]) {
  console.log(
    `${set.padEnd(34)}${String(samples).padStart(8)}${percent(flagged).padStart(10)}${percent(severe).padStart(10)}`,
  );
}
for (const kibibytes of [4, 64, 1024]) {
  const milliseconds = cost(kibibytes * 1024, () => systemClock.monotonic());
  console.log(`all detectors, ${kibibytes} KiB: ${milliseconds.toFixed(2)} ms`);
}
