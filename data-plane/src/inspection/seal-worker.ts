import { parentPort } from 'node:worker_threads';
// Not the packages as a whole: a thread has to be there soon after its first message.
import { systemClock } from '@sallyport/schema/clock';
import { type SealJob, sealMessages } from '@sallyport/schema/seal-messages';

/** Never rejects. */
async function answer(job: SealJob): Promise<void> {
  parentPort?.postMessage(await sealMessages(job, () => systemClock.monotonic()));
}

/** Runs beside the event loop: a captured message of a mebibyte costs this thread, not the calls of others. */
parentPort?.on('message', (job: SealJob) => void answer(job));
