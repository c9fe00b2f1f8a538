import { parentPort, workerData } from 'node:worker_threads';
// Not the packages as a whole: a thread loads for itself what it needs, and should need little.
import { createLog } from '@sallyport/schema/log';
import { createQueues, type QueueProducer } from '@sallyport/schema/queues';
import type { QueueJob, QueueProblem, QueueThreadData } from './queue-thread.ts';

const { backend, logLevel } = workerData as QueueThreadData;
const queues = createQueues(backend, { log: createLog({ name: 'sallyport-node', level: logLevel }) });
const producers = new Map<string, QueueProducer>();

async function run(job: QueueJob): Promise<void> {
  if (job.kind === 'close') {
    await Promise.all([...producers.values()].map((producer) => producer.close()));
    return;
  }
  const producer = producers.get(job.queue) ?? queues.producer(job.queue);
  producers.set(job.queue, producer);
  // What was handed over from another thread is no Buffer any more.
  await producer.add(
    job.jobId,
    job.data,
    job.lines === undefined ? undefined : Buffer.from(job.lines.buffer, job.lines.byteOffset, job.lines.length),
  );
}

/** Never rejects. */
async function answer(job: QueueJob): Promise<void> {
  let problem: QueueProblem = null;
  try {
    await run(job);
  } catch (error) {
    problem = error instanceof Error ? error.message : String(error);
  }
  parentPort?.postMessage(problem);
}

parentPort?.on('message', (job: QueueJob) => void answer(job));
