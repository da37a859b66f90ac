// The first screen: what each arm gains, curves of quality over cost, and searches whose reward misled them.
import { Comparisons } from "./comparisons.jsx";
import { BaselineAndMeasure, CostAxis, Empty, Filters } from "./controls.jsx";
import { Curves } from "./curves.jsx";
import { Gap } from "./gap.jsx";
import { Searches } from "./searches.jsx";
import { run } from "./state.js";

export function Overview() {
  const { manifest, searches } = run.value;
  if (!searches.n) {
    return (
      <Empty>
        No search has ended yet. {manifest.run.state === "running" || manifest.run.state === "starting"
          ? "The run goes on: raysearch view shows it live." : "There is nothing to compare."}
      </Empty>
    );
  }
  return (
    <>
      <div class="bar">
        <BaselineAndMeasure />
        <CostAxis />
        <Filters />
      </div>
      <Comparisons />
      <div class="two">
        <Curves />
        <Gap />
      </div>
      <Searches />
    </>
  );
}
