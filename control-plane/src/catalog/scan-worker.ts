import { parentPort } from 'node:worker_threads';
import { findShadowing, scanDefinition } from '@sallyport/schema';
import type { ScanJob } from './definition-scanner.ts';

/** Runs beside the API: a hostile definition costs this thread, not the ones who wait for an answer. */
parentPort?.on('message', ({ raw, foreign, isKnown }: ScanJob) =>
  parentPort?.postMessage([...(isKnown ? [] : scanDefinition(raw)), ...findShadowing(raw, new Set(foreign))]),
);
