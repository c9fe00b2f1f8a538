export * from './clock.ts';
export * from './discover.ts';
export * from './guarded-egress.ts';
export * from './identifiers.ts';
export * from './log.ts';
export * from './operations.ts';
export * from './queues.ts';
export * from './sealing.ts';
