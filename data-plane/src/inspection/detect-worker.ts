import { parentPort } from 'node:worker_threads';
import { type DetectionInput, findInTexts } from '@sallyport/schema';
import { systemClock } from '@sallyport/schema/platform';

/** Runs beside the event loop: a long text costs this thread, not the calls of others. */
parentPort?.on('message', (input: DetectionInput) =>
  parentPort?.postMessage(findInTexts(input, () => systemClock.monotonic())),
);
