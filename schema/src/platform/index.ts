export * from './clock.ts';
export * from './identifiers.ts';
export * from './log.ts';
export * from './sealing.ts';
