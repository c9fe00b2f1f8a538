import { parentPort } from 'node:worker_threads';
// Not the packages as a whole: a thread has to be there soon after its first text.
import { systemClock } from '@sallyport/schema/clock';
import { type DetectionInput, findInTexts } from '@sallyport/schema/find-in-texts';

/** Runs beside the event loop: a long text costs this thread, not the calls of others. */
parentPort?.on('message', (input: DetectionInput) =>
  parentPort?.postMessage(findInTexts(input, () => systemClock.monotonic())),
);
