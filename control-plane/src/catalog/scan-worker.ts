import { parentPort } from 'node:worker_threads';
import { scanDefinition } from '@sallyport/schema';

/** Runs beside the API: a hostile definition costs this thread, not the ones who wait for an answer. */
parentPort?.on('message', (raw: Readonly<Record<string, unknown>>) => parentPort?.postMessage(scanDefinition(raw)));
