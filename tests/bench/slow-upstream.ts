/** The fake upstream in a thread of its own, so that its timers do not wait for the load generator. */
import { parentPort } from 'node:worker_threads';
import { startFakeUpstream } from '../kit/fake-upstream.ts';

const upstream = await startFakeUpstream({ eras: 'modern' });
parentPort?.postMessage(upstream.url);
