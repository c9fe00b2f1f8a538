/** The echo upstream in a thread of its own, so that its timers do not wait for the load generator. */
import { parentPort } from 'node:worker_threads';
import { startEchoUpstream } from '../kit/echo-upstream.ts';

const upstream = await startEchoUpstream();
parentPort?.postMessage(upstream.url);
