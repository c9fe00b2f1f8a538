import type { Reporter, TestModule } from 'vitest/node';

type Suites = ReturnType<TestModule['children']['allSuites']>;

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Hooks that threw and files that did not load have no failed test of their own, so each counts as one. */
function countFailedSuites(suites: Suites): number {
  let failed = 0;
  for (const suite of suites) if (suite.errors().length > 0) failed += 1;
  return failed;
}

function count(modules: readonly TestModule[]): Counts {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const testModule of modules) {
    if (testModule.errors().length > 0) counts.failed += 1;
    counts.failed += countFailedSuites(testModule.children.allSuites());
    for (const test of testModule.children.allTests()) {
      const { state } = test.result();
      if (state === 'passed') counts.passed += 1;
      else if (state === 'skipped') counts.skipped += 1;
      else counts.failed += 1;
    }
  }
  return counts;
}

/**
 * Ends the run with the plain line `N passed, N failed, N skipped`. It is written as the process exits, because other
 * reporters and the teardown of the global setup may still print after `onTestRunEnd`. A run that never ended, an
 * error outside any test, and any other reason to exit with a failure count as failed.
 */
export default class PlainLineReporter implements Reporter {
  private counts: Counts = { passed: 0, failed: 1, skipped: 0 };

  onInit(): void {
    process.once('exit', (code) => {
      const { passed, skipped } = this.counts;
      const failed = code === 0 ? this.counts.failed : Math.max(1, this.counts.failed);
      process.stdout.write(`\n${passed} passed, ${failed} failed, ${skipped} skipped\n`);
    });
  }

  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const counts = count(modules);
    counts.failed += unhandledErrors.length;
    this.counts = counts;
  }
}
