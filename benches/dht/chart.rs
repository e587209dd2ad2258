//! The picture of hops over the number of nodes.

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 352.0;
const TOP: f64 = 48.0;
const RIGHT: f64 = 696.0;

/// An SVG: the number of nodes on a logarithmic axis, on which O(log n) is a straight line.
pub(crate) fn hops(sound: &[(usize, f64)], hostile: &[(usize, f64)]) -> String {
    let all = || sound.iter().chain(hostile);
    let most = all().map(|(_, hops)| *hops).fold(1.0, f64::max).ceil();
    let log = |nodes: usize| (nodes.max(1) as f64).log2();
    let (first, last) = (log(sound[0].0), log(sound[sound.len() - 1].0));
    let x = |nodes: usize| LEFT + (RIGHT - LEFT) * (log(nodes) - first) / (last - first).max(1.0);
    let y = |hops: f64| BOTTOM - (BOTTOM - TOP) * hops / most;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">Hops of a lookup, mean of 100, by the number of nodes</text>\n"
    );
    for hops in 0..=most as u32 {
        let at = y(f64::from(hops));
        svg += &format!("<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#ddd\"/>\n");
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{hops}</text>\n", LEFT - 8.0, at + 4.0);
    }
    for (nodes, _) in sound {
        svg += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{nodes}</text>\n", x(*nodes), BOTTOM + 20.0);
    }
    for (points, colour, name, at) in
        [(sound, "#1667b7", "all nodes answer", 0.0), (hostile, "#c2410c", "15 % are silent, 18 % lie", 18.0)]
    {
        let path: Vec<_> = points.iter().map(|(nodes, hops)| format!("{:.1} {:.1}", x(*nodes), y(*hops))).collect();
        svg += &format!("<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n", path.join("L"));
        for (nodes, hops) in points {
            svg += &format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\n", x(*nodes), y(*hops));
        }
        svg += &format!("<text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>\n", RIGHT - 200.0, BOTTOM - 40.0 + at);
    }
    svg + "</svg>\n"
}
